//! The body of `/metrics`: its text, its compression, and how little is done when little changes.

#![allow(clippy::panic, clippy::print_stderr, clippy::unwrap_used, reason = "a test may")]

#[path = "support/tools.rs"]
mod tools;
#[path = "support/values.rs"]
mod values;

use std::collections::HashSet;
use std::io::Read;
use std::process::Command;
use std::sync::Arc;

use meshcert::mesh::SecretRole;
use meshcert::metrics::Metrics;
use meshcert::metrics::exposition::{ClusterSnapshot, Exposition, ObjectPart};
use meshcert::metrics::family::Format;
use meshcert::time::{DAY, UnixTime};
use values::*;

const BOTH: [Format; 2] = [Format::OpenMetrics, Format::Classic];

/// The text and the gzip form of a whole body.
fn mk_body(clusters: Vec<ClusterSnapshot>, format: Format, now: UnixTime) -> (String, Vec<u8>) {
    let exposition = Exposition::default();
    let part = exposition.render(&clusters, format, now);
    let metrics = Metrics::new(Told::new(clusters), None);
    metrics.config_accepted(NOW);
    let tail = metrics.tail(&part, format);
    let text = objects(&part) + std::str::from_utf8(&tail.text).unwrap();
    (text, [&part.gzip[..], &tail.gzip[..]].concat())
}

fn objects(part: &ObjectPart) -> String {
    part.segments.iter().map(|segment| String::from_utf8(segment.inflate()).unwrap()).collect()
}

fn rendered(clusters: &[ClusterSnapshot], now: UnixTime) -> String {
    objects(&Exposition::default().render(clusters, Format::OpenMetrics, now))
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    // One member only: a second one, or anything after it, would be left over.
    let mut decoder = flate2::bufread::GzDecoder::new(bytes);
    decoder.read_to_end(&mut out).unwrap();
    assert!(decoder.into_inner().is_empty(), "something follows the gzip member");
    out
}

fn samples(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

/// Replaces what differs from run to run or release to release.
fn steady(text: &str) -> String {
    let steady = |line: &str| match line.split_once(' ') {
        Some((name, _)) if name.starts_with("process_") => format!("{name} …\n"),
        _ if line.starts_with("meshcert_build_info") => "meshcert_build_info{…} 1\n".to_owned(),
        _ => format!("{line}\n"),
    };
    text.lines().map(steady).collect()
}

fn check_golden(name: &str, text: &str) {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(golden == text, "{path} differs; look at it with UPDATE_GOLDEN=1 and git diff\n{text}");
}

#[test]
fn the_openmetrics_body_is_golden() {
    check_golden("openmetrics.txt", &steady(&mk_body(mk_fleet(), Format::OpenMetrics, NOW).0));
}

#[test]
fn the_classic_body_is_golden() {
    check_golden("classic.txt", &steady(&mk_body(mk_fleet(), Format::Classic, NOW).0));
}

#[test]
fn families_without_series_still_have_their_headers() {
    check_golden("empty.txt", &rendered(&[], NOW));
}

#[test]
fn gzip_holds_the_same_text_in_a_single_member() {
    for format in BOTH {
        let (text, gzip) = mk_body(mk_fleet(), format, NOW);
        assert_eq!(String::from_utf8(gunzip(&gzip)).unwrap(), text);
    }
}

#[test]
fn no_series_is_there_twice_and_families_stand_together() {
    for format in BOTH {
        let (text, _) = mk_body(mk_fleet(), format, NOW);
        let mut series = HashSet::new();
        let mut families = Vec::new();
        for line in samples(&text) {
            let (name, _) = line.rsplit_once(' ').unwrap();
            assert!(series.insert(name), "twice: {name}");
            families.push(name.split('{').next().unwrap());
        }
        families.dedup();
        assert_eq!(families.len(), families.iter().collect::<HashSet<_>>().len(), "{families:?}");
    }
}

#[test]
fn a_single_cluster_is_exported_as_x509_certificate_exporter_would() {
    let cluster = mk_fleet().remove(1);
    assert!(!rendered(&[cluster], NOW).contains("secret_cluster"));
}

#[test]
fn the_order_of_clusters_does_not_matter_and_a_repeated_name_counts_once() {
    let fleet = mk_fleet();
    let turned: Vec<_> = fleet.iter().rev().cloned().collect();
    assert_eq!(rendered(&fleet, NOW), rendered(&turned, NOW));
    let repeated: Vec<_> = fleet.iter().chain(&fleet[..1]).cloned().collect();
    assert_eq!(rendered(&fleet, NOW), rendered(&repeated, NOW));
}

#[test]
fn a_change_of_one_shard_renders_one_shard() {
    let shards: Vec<_> =
        (0..64).map(|i| mk_shard(vec![mk_small_mesh(&format!("mesh-{i}"), NOW.plus(DAY))], vec![])).collect();
    let exposition = Exposition::default();
    let before = [mk_cluster("cp-1", shards.clone()), mk_cluster("cp-2", shards.clone())];
    exposition.render(&before, Format::OpenMetrics, NOW);
    assert_eq!(exposition.rendered_shards(), 128);

    let mut changed = shards;
    changed[17] = mk_shard(vec![mk_small_mesh("mesh-new", NOW.plus(DAY))], vec![]);
    let after = [before[0].clone(), mk_cluster("cp-2", changed)];
    let part = exposition.render(&after, Format::OpenMetrics, NOW);
    assert_eq!(exposition.rendered_shards(), 129);
    assert_eq!(objects(&part), rendered(&after, NOW), "the cache says what a fresh rendering says");
    assert!(objects(&part).contains("mesh-new"));
}

#[test]
fn nothing_is_rendered_for_a_second_format_or_an_unchanged_scrape() {
    let fleet = mk_fleet();
    let exposition = Exposition::default();
    let first = exposition.render(&fleet, Format::OpenMetrics, NOW);
    let count = exposition.rendered_shards();
    assert!(exposition.unchanged(&fleet, Format::Classic, NOW).is_none(), "not assembled yet");
    exposition.render(&fleet, Format::Classic, NOW);
    assert_eq!(exposition.rendered_shards(), count);
    let again = exposition.unchanged(&fleet, Format::OpenMetrics, NOW.plus(1)).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
}

#[test]
fn a_removed_cluster_and_a_deleted_mesh_leave_no_series() {
    let exposition = Exposition::default();
    let mesh = |id: &str| mk_shard(vec![mk_small_mesh(id, NOW.plus(DAY))], vec![]);
    let shards = vec![mesh("mesh-1"), mesh("mesh-101")];
    let both = [mk_cluster("a", shards.clone()), mk_cluster("b", shards.clone())];
    exposition.render(&both, Format::OpenMetrics, NOW);
    let left = [mk_cluster("a", vec![mk_shard(vec![], vec![]), Arc::clone(&shards[1])])];
    let text = objects(&exposition.render(&left, Format::OpenMetrics, NOW));
    assert!(text.contains(r#"mesh_id="mesh-101""#));
    assert!(!text.contains(r#"mesh_id="mesh-1""#) && !text.contains(r#"mesh_cluster="b""#));
}

#[test]
fn series_that_depend_on_time_change_at_the_second_and_only_their_shard_is_rendered() {
    let end = NOW.plus(100);
    let clusters = [mk_cluster(
        "cp-1",
        vec![
            mk_shard(vec![], vec![mk_tls("web", "soon", vec![mk_certificate("soon", 1, end)], vec![])]),
            mk_shard(vec![], vec![mk_tls("web", "later", vec![mk_certificate("later", 2, NOW.plus(DAY))], vec![])]),
        ],
    )];
    let exposition = Exposition::default();
    let expired = |now| {
        let part = exposition.render(&clusters, Format::OpenMetrics, now);
        let text = objects(&part);
        let line = samples(&text).find(|line| line.starts_with("x509_cert_expired") && line.contains("soon"));
        line.map(|line| line.ends_with(" 1"))
    };
    assert_eq!((expired(NOW), exposition.rendered_shards()), (Some(false), 2));
    assert_eq!((expired(end), exposition.rendered_shards()), (Some(false), 2), "its last second is still a valid one");
    assert!(exposition.unchanged(&clusters, Format::OpenMetrics, end.plus(1)).is_none());
    assert_eq!((expired(end.plus(1)), exposition.rendered_shards()), (Some(true), 3));
    assert_eq!((expired(NOW), exposition.rendered_shards()), (Some(false), 4), "a clock that was set back is believed");
}

#[test]
fn not_yet_valid_goes_when_the_certificate_begins() {
    let fleet = mk_fleet();
    let has = |now| rendered(&fleet, now).contains(r#"reason="not_yet_valid""#);
    assert!(has(NOW) && has(NOW.plus(DAY - 1)) && !has(NOW.plus(DAY)));
}

#[test]
fn one_place_has_one_series_even_if_a_kubeconfig_repeats_itself() {
    let mut mesh = mk_small_mesh("hosted-demo", NOW.plus(9 * DAY));
    let mut again = mesh.certificates[0].clone();
    again.certificate.not_after = NOW.plus(DAY);
    mesh.certificates.push(again);
    let place = mesh.secret_names[SecretRole::KubeCerts as usize].clone();
    let text = rendered(&[mk_cluster("cp-1", vec![mk_shard(vec![mesh], vec![])])], NOW);
    let ends: Vec<_> = samples(&text)
        .filter(|line| line.starts_with("meshcert_certificate_not_after") && line.contains("apiserver.crt"))
        .collect();
    assert!(
        matches!(&ends[..], [one] if one.contains(&*place) && one.ends_with(&NOW.plus(DAY).0.to_string())),
        "{ends:?}"
    );
}

#[test]
fn pythons_parsers_read_every_sample_and_label() {
    let Some(python) = tools::python() else { return };
    for (format, module) in BOTH.into_iter().zip(["prometheus_client.openmetrics.parser", "prometheus_client.parser"]) {
        let (text, gzip) = mk_body(mk_fleet(), format, NOW);
        let script = format!(
            "import gzip, json, sys\nfrom {module} import text_string_to_metric_families as parse\n\
             text = gzip.decompress(sys.stdin.buffer.read()).decode()\n\
             samples = [s for f in parse(text) for s in f.samples]\n\
             print(json.dumps([len(samples), sorted({{v for s in samples for v in s.labels.values()}})]))"
        );
        let output = tools::run(Command::new(&python).args(["-c", &script]), &gzip).unwrap();
        assert!(output.status.success(), "{format:?}: {}", String::from_utf8_lossy(&output.stderr));
        let (count, labels): (usize, Vec<String>) = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(count, samples(&text).count());
        for value in
            ["Quotes \"and\" back\\slashes", "two\nlines", "M\u{fc}nchen", "18446744073709551615", "etcd \"0\""]
        {
            assert!(labels.iter().any(|label| label == value), "{format:?} lost {value:?}");
        }
    }
}

#[test]
fn promtool_has_nothing_to_say() {
    let Some(promtool) = tools::promtool() else { return };
    let (text, _) = mk_body(mk_fleet(), Format::Classic, NOW);
    let output = tools::run(Command::new(promtool).args(["check", "metrics"]), text.as_bytes()).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
