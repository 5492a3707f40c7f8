use std::collections::BTreeSet;

use super::*;
use crate::testpki::{Ca, NOW, Pki, SERVER, kubeconfig};
use crate::time::DAY;

fn reasons(mesh: &HostedMesh) -> BTreeSet<(&'static str, String)> {
    mesh.findings_at(NOW).iter().map(|finding| (finding.reason.as_str(), finding.key.to_string())).collect()
}

fn mk_set(expected: &[(&'static str, &str)]) -> BTreeSet<(&'static str, String)> {
    expected.iter().map(|(reason, key)| (*reason, (*key).to_owned())).collect()
}

#[test]
fn mesh_ids_are_taken_by_suffix_whatever_words_they_hold() {
    let naming = Naming::default();
    for (secret, id, role) in [
        ("demo-kube-certs", "demo", SecretRole::KubeCerts),
        ("hosted-etcd-kube-certs", "hosted-etcd", SecretRole::KubeCerts),
        ("kube-certs-etcd-certs", "kube-certs", SecretRole::EtcdCerts),
        ("a-kube-certs-kube-certs", "a-kube-certs", SecretRole::KubeCerts),
        ("x-apiserver-admin-kubeconfig", "x", SecretRole::AdminKubeconfig),
    ] {
        assert_eq!(naming.classify(secret), Some((id.parse().unwrap(), role)), "{secret}");
        assert_eq!(naming.secret_name(&id.parse().unwrap(), role), secret);
    }
    for other in
        ["kube-certs", "-kube-certs", "Demo-kube-certs", "1-etcd-certs", "demo-kube-certs-backup", "demo--kube-certs-"]
    {
        assert_eq!(naming.classify(other), None, "{other}");
    }
}

#[test]
fn the_longest_template_wins_and_impossible_ones_are_refused() {
    let naming = Naming::new(["{mesh}-certs", "{mesh}-etcd-certs", "admin-{mesh}"]).unwrap();
    assert_eq!(naming.classify("a-etcd-certs").unwrap().1, SecretRole::EtcdCerts);
    assert_eq!(naming.classify("a-certs").unwrap().1, SecretRole::KubeCerts);
    assert_eq!(naming.classify("admin-a"), Some(("a".parse().unwrap(), SecretRole::AdminKubeconfig)));
    assert_eq!(Naming::new(["certs", "b{mesh}", "c{mesh}"]), Err(InvalidNaming::Placeholder("certs".to_owned())));
    assert_eq!(
        Naming::new(["{mesh}{mesh}x", "b{mesh}", "c{mesh}"]),
        Err(InvalidNaming::Placeholder("{mesh}{mesh}x".to_owned()))
    );
    assert_eq!(Naming::new(["{mesh}", "b{mesh}", "c{mesh}"]), Err(InvalidNaming::Bare("{mesh}".to_owned())));
    assert_eq!(Naming::new(["b{mesh}", "b{mesh}", "c{mesh}"]), Err(InvalidNaming::Twice("b{mesh}".to_owned())));
}

#[test]
fn a_whole_mesh_has_no_findings_and_ends_with_its_first_leaf() {
    let mut pki = Pki::new(300);
    pki.set(SecretRole::EtcdCerts, "peer.crt", pki.etcd_ca.leaf("peer", 20, &[]));
    let mesh = pki.mesh();
    assert_eq!(reasons(&mesh), mk_set(&[]));
    assert_eq!(mesh.expiration, Some(NOW.plus(20 * DAY)));
    assert_eq!(mesh.certificates.len(), 12);
    assert_eq!(mesh.next_change(NOW), Some(NOW.plus(20 * DAY + 1)));
    let components: BTreeSet<_> = mesh.certificates.iter().map(|found| found.component.as_str()).collect();
    assert!(!components.contains("other") && components.len() == 11, "{components:?}");
}

#[test]
fn a_leaf_ends_with_the_ca_that_signed_it() {
    let mut pki = Pki::new(300);
    let short = Ca::new("etcd-ca", 10);
    for key in ["server.crt", "peer.crt", "healthcheck-client.crt"] {
        pki.set(SecretRole::EtcdCerts, key, short.leaf("etcd", 300, &[]));
    }
    pki.set(SecretRole::KubeCerts, "apiserver-etcd-client.crt", short.leaf("client", 300, &[]));
    pki.set(SecretRole::EtcdCerts, "ca.crt", short.pem.clone());
    let mesh = pki.mesh();
    assert_eq!(mesh.expiration, Some(NOW.plus(10 * DAY)));
    let expected = [
        ("ca_ends_before_leaf", "apiserver-etcd-client.crt"),
        ("ca_ends_before_leaf", "healthcheck-client.crt"),
        ("ca_ends_before_leaf", "peer.crt"),
        ("ca_ends_before_leaf", "server.crt"),
    ];
    assert_eq!(reasons(&mesh), mk_set(&expected));
    let later = mesh.findings_at(NOW.plus(11 * DAY));
    assert!(later.iter().any(|finding| finding.reason == Reason::CaExpired && &*finding.key == "ca.crt"));
}

#[test]
fn a_ca_is_recognised_by_its_signature_not_by_its_name() {
    let mut pki = Pki::new(300);
    // The same name, another key: what a wrongly rotated CA looks like.
    let stranger = Ca::new("kubernetes", 3650);
    pki.set(SecretRole::KubeCerts, "apiserver-kubelet-client.crt", stranger.leaf("x", 300, &[]));
    assert_eq!(reasons(&pki.mesh()), mk_set(&[("wrong_ca", "apiserver-kubelet-client.crt")]));
}

#[test]
fn a_missing_secret_and_a_missing_leaf_are_told_apart() {
    let mut pki = Pki::new(300);
    pki.secrets[SecretRole::KubeCerts as usize].remove("front-proxy-client.crt");
    let mesh = pki.mesh_of([Some(SecretRole::KubeCerts), None, Some(SecretRole::AdminKubeconfig)]);
    let expected = [
        ("certificate_missing", "front-proxy-client.crt"),
        // What the etcd CA signed is not called wrong for that.
        ("secret_missing", ""),
    ];
    assert_eq!(reasons(&mesh), mk_set(&expected));
    let missing = &mesh.findings[mesh.findings.iter().position(|f| f.reason == Reason::SecretMissing).unwrap()];
    assert!(missing.message.contains("istio-system/demo-etcd-certs does not exist"), "{}", missing.message);
    assert!(!Reason::SecretMissing.breaks() && Reason::WrongCa.breaks());
}

#[test]
fn a_needed_certificate_that_is_not_there_is_missing_whatever_stands_in_its_place() {
    let with = |key: &'static str, value: &dyn Fn(&Pki) -> String| {
        let mut pki = Pki::new(300);
        let role = if key == "config" { SecretRole::AdminKubeconfig } else { SecretRole::EtcdCerts };
        pki.set(role, key, value(&pki));
        reasons(&pki.mesh())
    };
    let key_alone = |_: &Pki| rcgen::KeyPair::generate().unwrap().serialize_pem();
    assert_eq!(with("peer.crt", &key_alone), mk_set(&[("certificate_missing", "peer.crt")]));
    let a_ca = |pki: &Pki| pki.etcd_ca.pem.clone();
    assert_eq!(with("peer.crt", &a_ca), mk_set(&[("certificate_missing", "peer.crt")]));
    let a_ca_before_it = |pki: &Pki| format!("{}{}", pki.etcd_ca.pem, pki.etcd_ca.leaf("peer", 300, &[]));
    assert_eq!(with("peer.crt", &a_ca_before_it), mk_set(&[("certificate_missing", "peer.crt")]));
    let a_ca_behind_it = |pki: &Pki| format!("{}{}", pki.etcd_ca.leaf("peer", 300, &[]), pki.etcd_ca.pem);
    assert_eq!(with("peer.crt", &a_ca_behind_it), mk_set(&[]));
    let four_dashes = |pki: &Pki| pki.etcd_ca.leaf("peer", 300, &[]).replacen("-----\n", "----\n", 1);
    assert_eq!(with("peer.crt", &four_dashes), mk_set(&[("invalid_pem", "peer.crt")]));
    let cut_off = |pki: &Pki| four_dashes(pki).replace("-----END CERTIFICATE-----", "");
    assert_eq!(with("peer.crt", &cut_off), mk_set(&[("certificate_missing", "peer.crt")]));
    let a_token = |pki: &Pki| kubeconfig(SERVER, &pki.ca.pem, "").replace("client-certificate-data: ", "token: x");
    assert_eq!(with("config", &a_token), mk_set(&[("certificate_missing", "config")]));
}

#[test]
fn a_kubeconfig_is_held_against_the_api_server_it_is_for() {
    let admin = |pki: &Pki| pki.ca.leaf("kubernetes-admin", 300, &[]);
    let mut pki = Pki::new(300);
    let config = kubeconfig("https://elsewhere.example:6443", &pki.ca.pem, &admin(&pki));
    pki.set(SecretRole::AdminKubeconfig, "config", config);
    assert_eq!(reasons(&pki.mesh()), mk_set(&[("kubeconfig_wrong_server", "config")]));

    let config = kubeconfig("https://demo-hosted-apiserver.istio-system.svc:6443", &pki.ca.pem, &admin(&pki));
    pki.set(SecretRole::AdminKubeconfig, "config", config);
    assert_eq!(reasons(&pki.mesh()), mk_set(&[("san_missing", "apiserver.crt")]));

    let config = kubeconfig(SERVER, &Ca::new("kubernetes", 3650).pem, &admin(&pki));
    pki.set(SecretRole::AdminKubeconfig, "config", config);
    assert_eq!(reasons(&pki.mesh()), mk_set(&[("kubeconfig_wrong_ca", "config")]));
}

#[test]
fn a_kubeconfig_that_nobody_can_use_is_told() {
    let with = |change: &dyn Fn(String) -> String| {
        let mut pki = Pki::new(300);
        let config = change(pki.secrets[SecretRole::AdminKubeconfig as usize]["config"].clone());
        pki.set(SecretRole::AdminKubeconfig, "config", config);
        let mesh = pki.mesh();
        (reasons(&mesh), mesh.findings.into_iter().map(|finding| finding.message).collect::<Vec<_>>().join("\n"))
    };
    for (from, to, reason, said) in [
        ("current-context: k", "current-context: x", "kubeconfig_wrong_server", "its current-context names no context"),
        (
            "server: 'https://demo-hosted-apiserver:6443', ",
            "",
            "kubeconfig_wrong_server",
            "its cluster kubernetes has no server",
        ),
        ("{cluster: kubernetes, ", "{cluster: gone, ", "kubeconfig_wrong_server", "its cluster gone has no server"),
        ("certificate-authority-data: ", "other: ", "kubeconfig_wrong_ca", "has no certificate-authority-data"),
        ("certificate-authority-data: ", "certificate-authority: /ca.crt, other: ", "file_reference", "/ca.crt"),
    ] {
        let (reasons, message) = with(&|config| config.replace(from, to));
        assert_eq!(reasons, mk_set(&[(reason, "config")]), "{to}");
        assert!(message.contains(said), "{message}");
    }
    let insecure =
        |config: String| config.replace("certificate-authority-data: ", "insecure-skip-tls-verify: true, other: ");
    assert_eq!(with(&insecure).0, mk_set(&[]));
    let odd = |config: String| format!("{config}- just text\n");
    assert_eq!(with(&odd).0, mk_set(&[("invalid_kubeconfig", "config")]));
}

#[test]
fn names_of_servers_are_compared_as_clients_compare_them() {
    let with = |server: &str, name: &str| {
        let mut pki = Pki::new(300);
        pki.set(SecretRole::KubeCerts, "apiserver.crt", pki.ca.leaf("kube-apiserver", 300, &[name]));
        let config = kubeconfig(server, &pki.ca.pem, &pki.ca.leaf("kubernetes-admin", 300, &[]));
        pki.set(SecretRole::AdminKubeconfig, "config", config);
        reasons(&pki.mesh())
    };
    let wrong = mk_set(&[("kubeconfig_wrong_server", "config")]);
    assert_eq!(with("https://Demo-Hosted-APIserver:6443", "demo-hosted-apiserver"), mk_set(&[]));
    assert_eq!(with("https://api.example.com:6443", "API.example.com"), mk_set(&[]));
    assert_eq!(with("https://api.example.com:6443", "*.Example.com"), mk_set(&[]));
    assert_eq!(with("https://a.b.example.com", "*.example.com"), wrong);
    assert_eq!(with("https://example.com", "*.example.com"), wrong);
    let service = "https://demo-hosted-apiserver.istio-system.svc:6443";
    assert_eq!(with(service, "*.istio-system.svc"), mk_set(&[]));
    assert_eq!(with(service, "*.svc"), mk_set(&[("san_missing", "apiserver.crt")]));
}

#[test]
fn a_user_outside_the_current_context_does_not_count() {
    let mut pki = Pki::new(300);
    let base64 = |pem: String| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let stranger = Ca::new("stranger", -1);
    let [own, foreign] = [pki.ca.leaf("spare", -3, &[]), stranger.leaf("spare", 300, &[])].map(base64);
    let trusted = base64(stranger.pem);
    let config = pki.secrets[SecretRole::AdminKubeconfig as usize]["config"].clone();
    let config = format!(
        "{config}- name: own\n  user: {{client-certificate-data: {own}}}\n\
         - name: foreign\n  user: {{client-certificate-data: {foreign}}}\n\
         - name: file\n  user: {{client-certificate: /etc/kubernetes/admin.crt}}\n"
    );
    let cluster = format!(
        "clusters:\n- name: spare\n  cluster: {{server: https://spare, certificate-authority-data: {trusted}}}"
    );
    let config = config.replacen("clusters:", &cluster, 1);
    pki.set(SecretRole::AdminKubeconfig, "config", config.clone());
    let mesh = pki.mesh();
    assert_eq!(mesh.expiration, Some(NOW.plus(300 * DAY)));
    assert_eq!(reasons(&mesh), mk_set(&[]));
    let spare = mesh.certificates.iter().filter(|found| !found.in_use);
    assert_eq!(spare.map(|found| found.component).collect::<Vec<_>>(), [Component::Other; 3]);
    // Where the current context does not resolve, every user counts.
    let config = config.replace("current-context: kubernetes-admin@kubernetes", "current-context: gone");
    pki.set(SecretRole::AdminKubeconfig, "config", config);
    let mesh = pki.mesh();
    assert_eq!(mesh.expiration, Some(NOW.plus(-3 * DAY)));
    let all = ["ca_ends_before_leaf", "ca_expired", "expired", "file_reference", "kubeconfig_wrong_server"];
    assert_eq!(reasons(&mesh), mk_set(&all.map(|reason| (reason, "config"))));
}

#[test]
fn what_stands_beside_the_kubeconfig_is_held_to_what_its_key_promises() {
    let beside = |key: &'static str, value: &dyn Fn(&Pki) -> String| {
        let mut pki = Pki::new(300);
        pki.set(SecretRole::AdminKubeconfig, key, value(&pki));
        let mesh = pki.mesh();
        assert_eq!(mesh.expiration, Some(NOW.plus(300 * DAY)), "{key}");
        reasons(&mesh)
    };
    assert_eq!(beside("ca.crt", &|pki| pki.ca.pem.clone()), mk_set(&[]));
    assert_eq!(beside("note", &|_| "made by hand".to_owned()), mk_set(&[]));
    assert_eq!(beside("namespace", &|_| String::new()), mk_set(&[]));
    assert_eq!(beside("ca.crt", &|_| "made by hand".to_owned()), mk_set(&[("unknown_format", "ca.crt")]));
    let bad_block = |_: &Pki| "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    assert_eq!(beside("note", &bad_block), mk_set(&[("invalid_certificate", "note")]));
    // A client certificate that the kubeconfig does not use is nothing that a renewal would replace.
    assert_eq!(beside("client.crt", &|pki| pki.ca.leaf("old", 20, &[])), mk_set(&[]));
    let mut pki = Pki::new(300);
    pki.secrets[SecretRole::AdminKubeconfig as usize].clear();
    pki.set(SecretRole::AdminKubeconfig, "note", "made by hand".to_owned());
    assert_eq!(reasons(&pki.mesh()), mk_set(&[("unknown_format", "note")]));
}

#[test]
fn unreadable_parts_are_findings_with_their_own_reason() {
    let mut pki = Pki::new(300);
    pki.set(
        SecretRole::EtcdCerts,
        "peer.crt",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
    );
    pki.set(SecretRole::AdminKubeconfig, "config", "current-context: [".to_owned());
    let leaf = pki.ca.leaf("kube-apiserver", 300, &["demo-hosted-apiserver"]);
    let torn = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    pki.set(SecretRole::KubeCerts, "apiserver.crt", format!("{leaf}{torn}"));
    let mesh = pki.mesh();
    let expected = [
        ("invalid_certificate", "apiserver.crt"),
        ("invalid_certificate", "peer.crt"),
        ("invalid_kubeconfig", "config"),
    ];
    assert_eq!(reasons(&mesh), mk_set(&expected));
    // A renewal is a remedy where it replaces the entry, and nowhere else.
    let renewing = mesh.findings.iter().filter(|finding| finding.message.contains("renew"));
    assert_eq!(renewing.map(|finding| &*finding.key).collect::<Vec<_>>(), ["apiserver.crt"]);
}
