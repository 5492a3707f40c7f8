//! Label sets as text.

/// Appends `name="value"`, after a comma if something stands before it. An empty value is left out: to Prometheus an empty label and an absent one are the same.
pub(super) fn push(out: &mut String, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    escape(out, value);
    out.push('"');
}

/// Appends a label value with backslashes, quotes and line feeds escaped, as both text formats want it.
pub(super) fn escape(out: &mut String, value: &str) {
    let mut rest = value;
    while let Some(at) = rest.find(['\\', '"', '\n']) {
        out.push_str(&rest[..at]);
        out.push_str(match rest.as_bytes()[at] {
            b'\\' => "\\\\",
            b'"' => "\\\"",
            _ => "\\n",
        });
        rest = &rest[at + 1..];
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unescape(text: &str) -> String {
        let mut out = String::new();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match (c, c == '\\') {
                (_, true) => match chars.next() {
                    Some('n') => out.push('\n'),
                    Some(other) => out.push(other),
                    None => panic!("a lone backslash at the end"),
                },
                _ => out.push(c),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn every_label_value_survives_the_round_trip_on_one_line(value in "(\\PC|[\\\\\"\n\r\t])*") {
            let mut line = String::new();
            escape(&mut line, &value);
            prop_assert!(!line.contains('\n'));
            prop_assert!(!line.replace("\\\\", "").replace("\\\"", "").contains('"'));
            prop_assert_eq!(unescape(&line), value);
        }
    }

    #[test]
    fn empty_values_leave_no_label() {
        let mut out = String::new();
        push(&mut out, "a", "1");
        push(&mut out, "b", "");
        push(&mut out, "c", "\"3\"");
        assert_eq!(out, r#"a="1",c="\"3\"""#);
    }
}
