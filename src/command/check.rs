//! `meshcert check`: reads certificates from files, without any cluster.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::cert::parse::{NamePool, Retain, read_entry};
use crate::cert::{CertFingerprint, Entry, Name, Position, ProblemReason, Role, SerialNumber};
use crate::cli::{CheckArgs, Outcome};
use crate::clock::SystemClock;
use crate::command::check::manifest::Manifest;
use crate::command::{Tone, columns, print, table, table_within};
use crate::mesh::Reason;
use crate::ports::Clock;
use crate::secret::{owes_certificate, promises_certificate};
use crate::time::{UnixTime, time_left};

mod manifest;

/// What was read, as `-o json` prints it.
#[derive(Debug, Default, Serialize)]
struct Report {
    certificates: Vec<CertificateReport>,
    problems: Vec<ProblemReport>,
    /// How many Secrets were passed over because of their type.
    #[serde(skip)]
    skipped: BTreeMap<&'static str, usize>,
}

#[derive(Debug, Serialize)]
struct CertificateReport {
    source: String,
    position: Position,
    subject: std::sync::Arc<Name>,
    issuer: std::sync::Arc<Name>,
    serial_number: SerialNumber,
    not_before: UnixTime,
    not_after: UnixTime,
    role: Role,
    fingerprint_sha256: CertFingerprint,
}

#[derive(Debug, Serialize)]
struct ProblemReport {
    source: String,
    position: Position,
    reason: &'static str,
    message: String,
}

/// Reads the files and prints what they hold; the outcome is that of the worst: a certificate that has ended, one that soon
/// will, something unreadable.
///
/// # Errors
/// Standard output cannot be written; an unreadable file is a problem in the answer instead.
pub fn run(args: CheckArgs) -> anyhow::Result<Outcome> {
    let CheckArgs { mut files, expiring_within, output } = args;
    if files.is_empty() {
        files.push(PathBuf::from("-"));
    }
    let now = SystemClock.now();
    let mut names = NamePool::default();
    let mut report = Report::default();
    for file in &files {
        let source = if file == Path::new("-") { "stdin".to_owned() } else { file.display().to_string() };
        match read(file) {
            Ok(bytes) => report.add_file(&source, &bytes, &mut names),
            Err(Unreadable { reason, message }) => {
                report.problems.push(ProblemReport { source, position: Position::Entry, reason, message });
            }
        }
    }
    if !report.skipped.is_empty() {
        let kinds: Vec<String> = report.skipped.iter().map(|(kind, count)| format!("{count} of {kind}")).collect();
        writeln!(io::stderr(), "meshcert: skipped Secrets that are not watched either: {}", kinds.join(", "))?;
    }
    print(&report, output, || report.table(now, expiring_within.0))?;
    Ok(report.outcome(now, expiring_within.0))
}

/// What a narrow terminal does without, the first first.
const GIVE_WAY: [&str; 4] = ["ISSUER", "ROLE", "POSITION", "NOT AFTER"];

/// A larger file is not read: a manifest takes several times its size in memory.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// Why a file was not read.
struct Unreadable {
    reason: &'static str,
    message: String,
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        let message = match error.kind() {
            io::ErrorKind::IsADirectory => "a directory; name the files in it".to_owned(),
            _ => error.to_string(),
        };
        Self { reason: "unreadable_file", message }
    }
}

fn read(file: &Path) -> Result<Zeroizing<Vec<u8>>, Unreadable> {
    let mut bytes = Zeroizing::new(Vec::new());
    if file == Path::new("-") {
        io::stdin().lock().take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    } else {
        std::fs::File::open(file)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let message = format!("larger than {} MiB, not read; split it", MAX_FILE_BYTES >> 20);
        return Err(Unreadable { reason: ProblemReason::TooLarge.as_str(), message });
    }
    Ok(bytes)
}

/// The text of a file in UTF-16 with its mark, as PowerShell's redirection writes it.
fn from_utf_16(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let (unit, bytes): (fn([u8; 2]) -> u16, _) = match bytes {
        [0xff, 0xfe, bytes @ ..] => (u16::from_le_bytes, bytes),
        [0xfe, 0xff, bytes @ ..] => (u16::from_be_bytes, bytes),
        _ => return None,
    };
    let units = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    let mut text = Zeroizing::new(String::with_capacity(bytes.len()));
    text.extend(char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)));
    Some(text)
}

impl Report {
    fn add_file(&mut self, source: &str, bytes: &[u8], names: &mut NamePool) {
        let transcoded = from_utf_16(bytes);
        let bytes = transcoded.as_ref().map_or(bytes, |text| text.as_bytes());
        let Some(Manifest { entries, problems, skipped }) = Manifest::read(bytes) else {
            return self.add_entry(source, source, read_entry(bytes, Retain::Facts, names));
        };
        for (kind, count) in skipped {
            *self.skipped.entry(kind).or_default() += count;
        }
        for manifest::SecretEntry { place, key, bytes } in entries {
            let mut entry = read_entry(&bytes, Retain::Facts, names);
            if entry.kubeconfig.is_none() && !promises_certificate(&key) {
                // A Secret holds other things too; only a key that promises a certificate owes one.
                entry.problems.retain(|problem| problem.position != Position::Entry);
            }
            self.add_entry(&format!("{source}:{place}"), &key, entry);
        }
        self.problems.extend(problems.into_iter().map(|manifest::Problem { place, reason, message }| ProblemReport {
            source: format!("{source}:{place}"),
            position: Position::Entry,
            reason,
            message,
        }));
    }

    /// Takes what was read under a key, or from a file of that name.
    fn add_entry(&mut self, source: &str, key: &str, entry: Entry) {
        if owes_certificate(key, &entry) {
            self.problems.push(ProblemReport {
                source: source.to_owned(),
                position: Position::Entry,
                reason: Reason::CertificateMissing.as_str(),
                message: "it holds no certificate".to_owned(),
            });
        }
        let Entry { certificates, problems, kubeconfig: _ } = entry;
        self.certificates.extend(certificates.into_iter().map(|found| CertificateReport {
            source: source.to_owned(),
            position: found.position,
            subject: found.certificate.subject,
            issuer: found.certificate.issuer,
            serial_number: found.certificate.serial_number,
            not_before: found.certificate.not_before,
            not_after: found.certificate.not_after,
            role: found.certificate.role,
            fingerprint_sha256: found.certificate.fingerprint,
        }));
        self.problems.extend(problems.into_iter().map(|problem| ProblemReport {
            source: source.to_owned(),
            position: problem.position,
            reason: problem.reason.as_str(),
            message: problem.message,
        }));
    }

    fn outcome(&self, now: UnixTime, expiring_within: i64) -> Outcome {
        let certificate = |certificate: &CertificateReport| certificate.outcome(now, expiring_within);
        let unreadable = if self.problems.is_empty() { Outcome::Fine } else { Outcome::Incomplete };
        self.certificates.iter().map(certificate).max().unwrap_or(Outcome::Fine).max(unreadable)
    }

    fn table(&self, now: UnixTime, expiring_within: i64) -> String {
        let mut text = String::new();
        if !self.certificates.is_empty() {
            text = table_within(
                columns(),
                &GIVE_WAY,
                ["SOURCE", "POSITION", "SUBJECT", "ISSUER", "ROLE", "NOT AFTER", "TIME LEFT"],
                self.certificates.iter().map(|certificate| {
                    let tone = match certificate.outcome(now, expiring_within) {
                        Outcome::Expired => Tone::Bad,
                        Outcome::Expiring => Tone::Warning,
                        _ => Tone::Good,
                    };
                    [
                        certificate.source.clone().into(),
                        certificate.position.to_string().into(),
                        certificate.subject.to_string().into(),
                        certificate.issuer.to_string().into(),
                        certificate.role.as_str().to_owned().into(),
                        certificate.not_after.to_string().into(),
                        tone.cell(time_left(now, certificate.not_after)),
                    ]
                }),
            );
        }
        if !self.problems.is_empty() {
            let separator = if text.is_empty() { "" } else { "\n" };
            let rows = self.problems.iter().map(|problem| {
                [
                    problem.source.clone().into(),
                    problem.position.to_string().into(),
                    Tone::Bad.cell(problem.reason),
                    problem.message.clone().into(),
                ]
            });
            text = format!("{text}{separator}{}", table(["SOURCE", "POSITION", "PROBLEM", "MESSAGE"], rows));
        }
        if text.is_empty() { "no certificates\n".to_owned() } else { text }
    }
}

impl CertificateReport {
    fn outcome(&self, now: UnixTime, expiring_within: i64) -> Outcome {
        match now.seconds_until(self.not_after) {
            left if left < 0 => Outcome::Expired,
            left if left < expiring_within => Outcome::Expiring,
            _ => Outcome::Fine,
        }
    }
}
