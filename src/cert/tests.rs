//! Shapes that people store, each made when the test runs.

use proptest::prelude::*;

use super::parse::{NamePool, Retain, read_entry};
use super::*;
use crate::testpki::{Ca, NOW, P521Ca, at, kubeconfig, mk_params};
use crate::time::DAY;

fn read(bytes: impl AsRef<[u8]>) -> Entry {
    read_entry(bytes.as_ref(), Retain::Facts, &mut NamePool::default())
}

/// `position subject-CN` of each certificate, then `position reason` of each problem.
fn outline(entry: &Entry) -> Vec<String> {
    let certificates = entry
        .certificates
        .iter()
        .map(|found| format!("{} {}", found.position, found.certificate.subject.common_name().unwrap_or("-")));
    let problems = entry.problems.iter().map(|problem| format!("{} {}", problem.position, problem.reason.as_str()));
    certificates.chain(problems).collect()
}

fn mk_pem(common_name: &str) -> String {
    Ca::new("ca", 100).leaf(common_name, 10, &[])
}

fn der_of(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).unwrap()
}

fn base64_of(bytes: impl AsRef<[u8]>) -> String {
    base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes)
}

#[test]
fn bundles_are_read_in_every_shape_they_are_stored_in() {
    let (a, b) = (mk_pem("a"), mk_pem("b"));
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let crlf = |text: &str| text.replace("\r\n", "\n").replace('\n', "\r\n");
    let indented: String = a.lines().map(|line| format!("\t  {line}\n")).collect();
    let one_line = format!("-----BEGIN CERTIFICATE-----{}-----END CERTIFICATE-----", base64_of(der_of(&a)));
    for (shape, text) in [
        ("plain", format!("{a}{b}")),
        ("CRLF", crlf(&format!("{a}{b}"))),
        ("CR", crlf(&format!("{a}{b}")).replace('\n', "")),
        ("no final newline", format!("{a}{}", b.trim_end())),
        ("no newline between", format!("{}{b}", a.trim_end())),
        ("text between", format!("subject=a\n{a}# the next one\n{b}trailing garbage \u{0}")),
        ("other blocks between", format!("{key}{a}{key}{b}{key}")),
        ("byte order mark", format!("\u{feff}{a}{b}")),
        ("indented", format!("{indented}{b}")),
        ("one line", format!("{one_line}{b}")),
        ("header lines", format!("{}{b}", a.replacen("-----\n", "-----\nProc-Type: 4,CLEAR\n\n", 1))),
        ("older labels", format!("{}{b}", a.replace("CERTIFICATE", "X509 CERTIFICATE"))),
        ("base64 again", base64_of(format!("{a}{b}"))),
    ] {
        assert_eq!(outline(&read(text)), ["0 a", "1 b"], "{shape}");
    }
    let both = [der_of(&a), der_of(&b)].concat();
    assert_eq!(outline(&read(&both)), ["0 a", "1 b"]);
    assert_eq!(outline(&read(base64_of(&both))), ["0 a", "1 b"]);
    assert_eq!(outline(&read([&both[..], b"garbage"].concat())), ["0 a", "1 b", "2 invalid_certificate"]);
    let in_one_block = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n{b}", base64_of(&both));
    assert_eq!(outline(&read(in_one_block)), ["0 a", "1 b", "0 invalid_certificate"]);
}

#[test]
fn a_bad_block_is_told_and_hides_no_neighbour() {
    let (a, b) = (mk_pem("a"), mk_pem("b"));
    let begin = "-----BEGIN CERTIFICATE-----\n";
    let end = "-----END CERTIFICATE-----\n";
    for (bad, reason) in [
        (format!("{begin}AAAA\n{end}"), "invalid_certificate"),
        (format!("{begin}{end}"), "invalid_certificate"),
        (format!("{begin}***\n{end}"), "invalid_base64"),
        (format!("{begin}AAAA\n"), "invalid_pem"),
        (mk_pem("c").replacen("-----\n", "----\n", 1), "invalid_pem"),
        (end.to_owned(), "invalid_pem"),
        (a.replacen("MII", "MIJ", 1), "invalid_certificate"),
    ] {
        let entry = read(format!("{a}{bad}{b}"));
        assert_eq!(outline(&entry), ["0 a".to_owned(), "2 b".to_owned(), format!("1 {reason}")], "{bad}");
    }
    for (bytes, reason) in [("", "empty"), (" \r\n", "empty"), ("hello", "unknown_format"), ("{}", "unknown_format")] {
        assert_eq!(outline(&read(bytes)), [format!(" {reason}")]);
    }
    assert_eq!(outline(&read(vec![b'x'; parse::MAX_ENTRY_BYTES + 1])), [" too_large"]);
    let throughout = outline(&read(format!("{}{a}", begin.repeat(30_000))));
    assert_eq!((throughout.len(), &*throughout[0], &*throughout[17]), (18, "30000 a", " more_problems"));
    let key_alone = rcgen::KeyPair::generate().unwrap().serialize_pem();
    assert_eq!(read(key_alone), Entry::default());
}

#[test]
fn kubeconfigs_yield_what_they_embed_and_nothing_they_point_to() {
    let ca = Ca::new("kubernetes", 100);
    let admin = ca.leaf("kubernetes-admin", 10, &[]);
    let text = kubeconfig("https://demo-hosted-apiserver:6443", &ca.pem, &admin);
    let more = "- {name: robot, user: {token: t0ken}}\n- {name: tool, user: {exec: {command: x}}}\n\
                - {name: file, user: {client-certificate: /etc/passwd, client-key: /etc/shadow}}\n\
                - {name: bad, user: {client-certificate-data: '***'}}\n";
    let entry = read(format!("{text}{more}"));
    let expected = [
        "user/kubernetes-admin kubernetes-admin",
        "cluster/kubernetes kubernetes",
        "user/file file_reference",
        "user/bad invalid_base64",
    ];
    assert_eq!(outline(&entry), expected);
    let facts = entry.kubeconfig.clone().unwrap();
    assert_eq!(facts.server.as_deref(), Some("https://demo-hosted-apiserver:6443"));
    assert_eq!((facts.user.as_deref(), facts.cluster.as_deref()), (Some("kubernetes-admin"), Some("kubernetes")));
    let shown = format!("{entry:?}");
    for secret in ["secret-key", "c2VjcmV0LWtleQ", "t0ken"] {
        assert!(!shown.contains(secret));
    }
    assert_eq!(outline(&read("current-context: [")), [" invalid_kubeconfig"]);
    let json = serde_json::json!({ "current-context": "c", "clusters": null, "users": [] });
    assert_eq!(outline(&read(json.to_string())), Vec::<String>::new());
    let bundle = format!("{admin}{}", ca.pem);
    let chain = read(kubeconfig("https://x", &ca.pem, &bundle));
    assert_eq!(outline(&chain)[1], "user/kubernetes-admin#1 kubernetes");
}

#[test]
fn a_kubeconfig_is_one_whatever_pem_stands_in_it() {
    let ca = Ca::new("kubernetes", 100);
    let text = kubeconfig("https://x", &ca.pem, &ca.leaf("kubernetes-admin", 10, &[]));
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let indented: String = key.lines().map(|line| format!("\n      {line}")).collect();
    let raw = text.replace("{client-certificate-data: ", "\n    client-certificate-data: ");
    let raw = raw.replace(", client-key-data: c2VjcmV0LWtleQ==}", &format!("\n    client-key-data: |{indented}"));
    assert!(raw.contains("PRIVATE KEY"), "{raw}");
    let both = ["user/kubernetes-admin kubernetes-admin", "cluster/kubernetes kubernetes"];
    for text in
        [format!("# -----BEGIN PRIVATE KEY-----\n{text}"), format!("{text}# {}", ca.pem.replace('\n', " ")), raw]
    {
        let entry = read(&text);
        assert_eq!(outline(&entry), both, "{text}");
        assert!(entry.kubeconfig.is_some() && !format!("{entry:?}").contains("PRIVATE"));
    }
    // And a bundle is none whatever its comments speak of.
    for comment in ["# the current-context of users and clusters", "clusters: [users"] {
        assert_eq!(outline(&read(format!("{comment}\n{}", ca.pem))), ["0 kubernetes"]);
    }
    assert_eq!(outline(&read(format!("current-context: [\n{key}"))), [" invalid_kubeconfig"]);
}

#[test]
fn what_kubectl_accepts_is_read_and_what_it_refuses_hides_no_neighbour() {
    let ca = Ca::new("kubernetes", 100);
    let text = kubeconfig("https://x", &ca.pem, &ca.leaf("kubernetes-admin", 10, &[]));
    let odd = |text: &str, problems: usize| {
        let entry = read(text);
        let good = ["user/kubernetes-admin kubernetes-admin", "cluster/kubernetes kubernetes"];
        let mut expected = good.map(str::to_owned).to_vec();
        expected.extend(std::iter::repeat_n(" invalid_kubeconfig".to_owned(), problems));
        assert_eq!(outline(&entry), expected, "{text}");
        let facts = entry.kubeconfig.unwrap();
        assert_eq!((facts.server.as_deref(), facts.user.as_deref()), (Some("https://x"), Some("kubernetes-admin")));
        entry.problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>()
    };
    odd(&format!("{text}- user: {{token: x}}\n"), 0);
    odd(&format!("{text}- {{name: a, name: b, user: {{token: x, token: y}}}}\n"), 0);
    odd(&format!("{text}---\nkind: Config\nusers: []\n"), 0);
    odd(&format!("---\n{text}...\n"), 0);
    odd(&format!("# a note\n{text}--- [\n"), 0);
    odd(&text.replace("server: ", "server: 'https://former', server: "), 0);
    odd(&text.replace("{cluster: kubernetes", "{cluster: former, ? [a] : b, cluster: kubernetes"), 0);
    odd(&format!("{text}- {{name: no, user: ~}}\n"), 0);
    let said = odd(&format!("{text}- just text\n- {{name: [a], user: 1}}\n"), 3);
    let places: Vec<_> = said.iter().map(|message| message.split(' ').next().unwrap()).collect();
    assert_eq!(places, ["users[1]", "users[2].name", "users[2].user"]);
    odd(&text.replace("contexts:\n", "contexts:\n- [x]\n- {name: x, context: {user: {}}}\n"), 2);
    odd(&text.replace("clusters:\n", "clusters:\n- 1.5\n- {name: x, cluster: {server: true}}\n"), 2);
    assert_eq!(outline(&read("current-context: a\nusers: {}\nclusters: x\n")), [" invalid_kubeconfig"; 2]);
}

#[test]
fn facts_are_those_of_the_certificate() {
    let mut params = mk_params("", 10, &[]);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    let bmp = rcgen::string::BmpString::try_from("Größe").unwrap();
    params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, rcgen::DnValue::BmpString(bmp));
    params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x7f; 20]));
    params.not_before = at(UnixTime(-315_619_200)).into();
    params.not_after = at(UnixTime(253_402_300_799)).into();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let entry = read(params.self_signed(&key).unwrap().pem());
    let certificate = &entry.certificates[0].certificate;
    assert_eq!(certificate.subject.to_string(), "O=system:masters,OU=Größe");
    assert_eq!(certificate.subject.common_name(), None);
    assert_eq!(certificate.serial_number.0.len(), 20);
    assert_eq!((certificate.not_before, certificate.not_after), (UnixTime(-315_619_200), UnixTime(253_402_300_799)));
    assert_eq!((certificate.role, certificate.key_algorithm), (Role::Leaf, KeyAlgorithm::P384));
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let entry = read(mk_params("e", 10, &[]).self_signed(&key).unwrap().pem());
    assert_eq!(entry.certificates[0].certificate.key_algorithm, KeyAlgorithm::Ed25519);
    assert_eq!(entry.certificates[0].certificate.not_after, NOW.plus(10 * DAY));
}

#[test]
fn a_renewed_ca_with_the_same_key_counts_with_its_longer_life() {
    let key = rcgen::KeyPair::generate().unwrap();
    let again = rcgen::KeyPair::from_pem(&key.serialize_pem()).unwrap();
    let (old, new) = (Ca::with_key("ca", 5, key), Ca::with_key("ca", 3650, again));
    let leaf = old.leaf("a", 100, &[]);
    let text = format!("{leaf}{}{}", old.pem, new.pem);
    let entry = read_entry(text.as_bytes(), Retain::Der, &mut NamePool::default());
    let all: Vec<&Certificate> = entry.certificates.iter().map(|found| &found.certificate).collect();
    let end = |pool: &[&Certificate]| chain::Chains::new(pool.iter().copied()).issuer_and_end(all[0]).1;
    assert_eq!(chain::issuer(all[0], &all[1..]), Some(all[2]));
    assert_eq!(end(&all[1..]), NOW.plus(100 * DAY));
    assert_eq!(end(&all[1..2]), NOW.plus(5 * DAY));
}

/// The certificates of a text, with their DER form.
fn all_of(text: &str) -> Vec<Certificate> {
    let entry = read_entry(text.as_bytes(), Retain::Der, &mut NamePool::default());
    assert_eq!(entry.problems, []);
    entry.certificates.into_iter().map(|found| found.certificate).collect()
}

#[test]
fn signatures_of_every_usual_algorithm_are_verified_and_a_namesake_is_no_issuer() {
    use rsa::pkcs8::EncodePrivateKey;
    let rsa = || {
        let key = rsa::PrivateKey::new(&mut rand::rng(), 2048).unwrap().to_pkcs8_pem(Default::default()).unwrap();
        rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(&key, &rcgen::PKCS_RSA_SHA256).unwrap()
    };
    let on = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap();
    for (kind, key, other) in [
        (KeyAlgorithm::Rsa(2048), rsa(), rsa()),
        (KeyAlgorithm::P256, on(&rcgen::PKCS_ECDSA_P256_SHA256), on(&rcgen::PKCS_ECDSA_P256_SHA256)),
        (KeyAlgorithm::P384, on(&rcgen::PKCS_ECDSA_P384_SHA384), on(&rcgen::PKCS_ECDSA_P384_SHA384)),
        (KeyAlgorithm::Ed25519, on(&rcgen::PKCS_ED25519), on(&rcgen::PKCS_ED25519)),
    ] {
        let (ca, namesake) = (Ca::with_key("ca", 3650, key), Ca::with_key("ca", 3650, other));
        let all = all_of(&format!("{}{}{}", ca.leaf("leaf", 10, &[]), namesake.pem, ca.pem));
        let [leaf, namesake, ca] = &all[..] else { panic!("three of {kind:?}") };
        assert_eq!((ca.key_algorithm, ca.role), (kind, Role::Ca));
        assert_eq!(chain::issuer(leaf, &[namesake, ca]), Some(ca), "{kind:?}");
        assert_eq!(chain::issuer(leaf, &[namesake]), None, "{kind:?}");
    }
}

#[test]
fn p_521_is_read_and_its_issuer_found_by_key_identifier() {
    let (ca, namesake) = (P521Ca::new("ca"), P521Ca::new("ca"));
    let all = all_of(&format!("{}{}{}", ca.leaf("leaf", 10), namesake.pem, ca.pem));
    let [leaf, namesake, ca] = &all[..] else { panic!("three") };
    let brief = |one: &Certificate| (one.key_algorithm, one.role, one.subject.to_string(), one.issuer.to_string());
    assert_eq!(brief(leaf), (KeyAlgorithm::P521, Role::Leaf, "CN=leaf".to_owned(), "CN=ca".to_owned()));
    assert_eq!(brief(ca), (KeyAlgorithm::P521, Role::Ca, "CN=ca".to_owned(), "CN=ca".to_owned()));
    assert_eq!(leaf.not_after, NOW.plus(10 * DAY));
    assert_eq!(chain::issuer(leaf, &[namesake, ca]), Some(ca));
    assert_eq!(chain::issuer(leaf, &[namesake]), None);
}

/// An RSA key of a size that rcgen's own keys cannot have.
struct OddRsa(rsa::PrivateKey, Vec<u8>);

impl OddRsa {
    fn new() -> Self {
        use rsa::pkcs1::EncodeRsaPublicKey;
        let key = rsa::PrivateKey::new(&mut rand::rng(), 1024).unwrap();
        let public = key.to_public_key().to_pkcs1_der().unwrap().as_bytes().to_vec();
        Self(key, public)
    }
}

impl rcgen::PublicKeyData for OddRsa {
    fn der_bytes(&self) -> &[u8] {
        &self.1
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl rcgen::SigningKey for OddRsa {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        use rsa::signature::{SignatureEncoding, Signer};
        let signer = rsa::pkcs1v15::SigningKey::<rsa::sha2::Sha256>::new(self.0.clone());
        Ok(signer.sign(message).to_vec())
    }
}

#[test]
fn an_rsa_ca_of_an_unusual_size_is_found_by_key_identifier() {
    let mut params = mk_params("ca", 3650, &[]);
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let [ca, namesake] = [OddRsa::new(), OddRsa::new()].map(|key| {
        let pem = params.self_signed(&key).unwrap().pem();
        (rcgen::Issuer::new(params.clone(), key), pem)
    });
    let mut leaf = mk_params("leaf", 10, &[]);
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&rcgen::KeyPair::generate().unwrap(), &ca.0).unwrap().pem();
    let all = all_of(&format!("{leaf}{}{}", namesake.1, ca.1));
    let [leaf, namesake, ca] = &all[..] else { panic!("three") };
    assert_eq!(ca.key_algorithm, KeyAlgorithm::Rsa(1024));
    assert_eq!(chain::issuer(leaf, &[namesake, ca]), Some(ca));
    assert_eq!(chain::issuer(leaf, &[namesake]), None);
}

#[test]
fn serial_numbers_of_any_size_print_in_decimal_and_hexadecimal() {
    let two_to_the_160: Vec<u8> = std::iter::once(1).chain([0; 20]).collect();
    for (bytes, decimal, hex) in
        [(&[][..], "0", "00"), (&[0x0a][..], "10", "0A"), (&[0x3b, 0x9a, 0xca, 0x00][..], "1000000000", "3B:9A:CA:00")]
    {
        let serial = SerialNumber(bytes.into());
        assert_eq!((serial.to_decimal().as_str(), serial.to_string().as_str()), (decimal, hex));
    }
    let large = SerialNumber(two_to_the_160.into());
    assert_eq!(large.to_decimal(), "1461501637330902918203684832716283019655932542976");
}

#[test]
fn a_serial_number_longer_than_any_that_is_meant_is_cut() {
    for (octets, kept) in [(20, 20), (64, 64), (65, 64), (20_000, 64)] {
        let mut params = mk_params("a", 10, &[]);
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&vec![0x7f; octets]));
        let entry = read(params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem());
        assert_eq!(entry.certificates[0].certificate.serial_number.0.len(), kept, "{octets} octets");
    }
}

#[test]
fn names_are_escaped_as_rfc_4514_says() {
    let name = Name(Box::new([(Attribute::Cn, " a,b+c ".into()), (Attribute::O, "#x\\".into())]));
    assert_eq!(name.to_string(), "CN=\\ a\\,b\\+c\\ ,O=\\#x\\\\");
}

proptest! {
    #[test]
    fn nothing_that_is_stored_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        read(&bytes);
        read([b"-----BEGIN CERTIFICATE-----\n", &bytes[..], b"\n-----END CERTIFICATE-----"].concat());
        read([b"current-context: a\nusers: ", &bytes[..]].concat());
        read([&[0x30, 0x82][..], &bytes[..]].concat());
    }

    #[test]
    fn a_mutated_certificate_neither_panics_nor_hides_its_neighbour(at in 0usize..10_000, byte in any::<u8>()) {
        let (a, b) = (mk_pem("a"), mk_pem("b"));
        let mut der = der_of(&a);
        let at = at % der.len();
        der[at] = byte;
        let mutated = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", base64_of(&der));
        let entry = read(format!("{mutated}{b}"));
        prop_assert!(outline(&entry).contains(&"1 b".to_owned()));
        prop_assert_eq!(entry.certificates.len() + entry.problems.len(), 2);
    }
}
