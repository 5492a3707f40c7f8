//! Digests of what is compared: contents of Secrets, plans, names.

use ring::digest::{Context, SHA256};

/// SHA-256 over the parts, each with its length before it so that no two lists of parts are alike; lower-case hexadecimal.
pub fn sha256<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        let part = part.as_ref();
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_part_ends_counts() {
        assert_ne!(sha256(["ab", "c"]), sha256(["a", "bc"]));
        assert_ne!(sha256(["a"]), sha256(["a", ""]));
        assert_eq!(sha256(["a"]).len(), 64);
    }
}
