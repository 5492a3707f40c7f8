//! What a Job's log may say in a status: its end, and nothing that could be a secret.

/// Lines of a log that are shown.
const MOST_LINES: usize = 8;
/// Characters of it.
const LONGEST: usize = 600;
/// A run of base64 that is longer than this is no word.
const LONGEST_RUN: usize = 24;
/// Of letters alone.
const LONGEST_WORD: usize = 40;
/// What stands in the place of something that could be a secret.
const REDACTED: &str = "…";

/// The end of a log in one line: without PEM blocks, without anything that looks like base64.
pub fn tail(log: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut inside = false;
    let mut hidden = false;
    for line in log.lines() {
        if line.contains("-----BEGIN") {
            inside = true;
            continue;
        }
        if line.contains("-----END") {
            // The log's end may begin in the middle of a block.
            if !inside {
                lines.clear();
            }
            (inside, hidden) = (false, false);
            continue;
        }
        if inside || line.trim().is_empty() {
            continue;
        }
        let (shown, hides) = redacted(line, hidden);
        hidden = hides;
        let again = shown == REDACTED && lines.last().is_some_and(|last| last == REDACTED);
        if !again {
            lines.push(shown);
        }
    }
    let first = lines.len().saturating_sub(MOST_LINES);
    let joined = lines[first..].join(" / ");
    let surplus = joined.chars().count().saturating_sub(LONGEST);
    joined.chars().skip(surplus).collect()
}

/// A line without what could be a secret, and whether it is nothing else. `goes_on`: the line before was, and this one may be its rest.
fn redacted(line: &str, goes_on: bool) -> (String, bool) {
    let tokens: Vec<&str> = line.split_whitespace().collect();
    let is_alone = tokens.len() == 1;
    let is_rest = |token: &str| goes_on && is_alone && token.chars().all(is_base64);
    let mut hides = false;
    let shown: Vec<String> = tokens
        .iter()
        .map(|token| {
            hides = is_suspicious(token) || is_rest(token);
            if hides { REDACTED.to_owned() } else { token.chars().filter(|c| !c.is_control()).collect() }
        })
        .collect();
    (shown.join(" "), hides && is_alone)
}

fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_')
}

/// A long run of base64's characters in which capitals, small letters and digits are mixed: neither a path nor a name nor a digest is. Words run together
/// without a digit (`CreateContainerConfigError`) are shorter than keys.
fn is_suspicious(token: &str) -> bool {
    token.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '='))).any(|run| {
        let has = |kind: fn(char) -> bool| run.chars().any(kind);
        let mixed = has(|c| c.is_ascii_uppercase()) && has(|c| c.is_ascii_lowercase());
        mixed && (run.len() > LONGEST_WORD || run.len() > LONGEST_RUN && has(|c| !c.is_ascii_alphabetic()))
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn the_end_of_a_log_stays_readable() {
        let log = "[renew] Error reading configuration from the Cluster. Falling back to default configuration\n\nMISSING! certificate serving the Kubernetes API\nError from server (Forbidden): secrets \"expiring-1-3f9a2c1b7e-a1b2c3-a1-staged-kube\" is forbidden: User \"system:serviceaccount:istio-system:mspider-mcpc\" cannot patch resource \"secrets\"\ncp: cannot stat '/etc/kubernetes/pki/apiserver-kubelet-client.crt'\nimage release.daocloud.io/mspider/self-hosted-apiserver@sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae\n";
        let expected: Vec<&str> = log.lines().filter(|line| !line.is_empty()).collect();
        let expected = expected.join(" / ");
        assert!(expected.ends_with(&tail(log)) && tail(log).contains("is forbidden"), "{}", tail(log));
        assert_eq!(tail(""), "");
        assert_eq!(tail(&"a\n".repeat(100)), ["a"; MOST_LINES].join(" / "));
    }

    #[test]
    fn no_key_comes_through_in_whatever_form_it_was_logged() {
        let pair = rcgen::KeyPair::generate().unwrap();
        let pem = pair.serialize_pem();
        let body: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        let encoded = STANDARD.encode(&pem);
        let in_lines = encoded.as_bytes().chunks(64).map(|chunk| String::from_utf8_lossy(chunk)).collect::<Vec<_>>();
        let end_of_a_block = pem.split_once('\n').unwrap().1.to_owned();
        for log in [
            format!("before\n{pem}after"),
            format!("{end_of_a_block}after"),
            format!("before\n{}", pem.rsplit_once("-----END").unwrap().0),
            format!("+ kubectl patch -p {{\"data\":{{\"apiserver.key\":\"{encoded}\"}}}}\nafter"),
            format!("before\n{}\nafter", in_lines.join("\n")),
            format!("before\n{}\nafter", body.join("\n")),
        ] {
            let said = tail(&log);
            for secret in body.iter().copied().chain(in_lines.iter().map(|line| &**line)) {
                assert!(!said.contains(&secret[..secret.len().min(8)]), "{secret} in {said}");
            }
            assert!(said.contains("before") || said.contains("after"), "{said} of {log}");
        }
    }
}
