//! Content negotiation (RFC 9110 section 12) between the two text formats, and between gzip and none.

use axum::http::header::{ACCEPT, ACCEPT_ENCODING};
use axum::http::{HeaderMap, HeaderName};

use crate::metrics::family::Format;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    Identity,
}

/// The format that the client likes best. Without a preference, or with one that cannot be met, classic text: everything reads it.
pub(super) fn format(headers: &HeaderMap) -> Format {
    let accept = joined(headers, &ACCEPT);
    let open_metrics = quality(&accept, "application", "openmetrics-text", &["1.0.0", "0.0.1"]);
    let classic = quality(&accept, "text", "plain", &["0.0.4"]);
    // Who names OpenMetrics understands it; a wildcard alone says nothing.
    if open_metrics.named && open_metrics.q > 0 && open_metrics.q >= classic.q {
        Format::OpenMetrics
    } else {
        Format::Classic
    }
}

/// Gzip wherever it is allowed and not liked less than none.
pub(super) fn encoding(headers: &HeaderMap) -> Encoding {
    let accept = joined(headers, &ACCEPT_ENCODING);
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for (name, q) in accept.split(',').map(weighted) {
        match name.split(';').next().unwrap_or_default().trim() {
            "gzip" | "x-gzip" => gzip = Some(q),
            "identity" => identity = Some(q),
            "*" => any = Some(q),
            _ => {}
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    if gzip > 0 && gzip >= identity.unwrap_or(0) { Encoding::Gzip } else { Encoding::Identity }
}

/// How much a media type is liked, in thousandths, and whether it was named rather than covered by a wildcard.
struct Quality {
    q: u16,
    named: bool,
}

/// The most specific range decides, whatever the order.
fn quality(accept: &str, kind: &str, subtype: &str, versions: &[&str]) -> Quality {
    let mut best = (0, 0);
    for (range, q) in accept.split(',').map(weighted) {
        let mut parts = range.split(';').map(str::trim);
        let (main, sub) = parts.next().and_then(|range| range.split_once('/')).unwrap_or_default();
        let version = parts.filter_map(|part| part.split_once('=')).find(|(name, _)| *name == "version");
        let specificity = match (main, sub, version) {
            (m, s, Some((_, v))) if m == kind && s == subtype && versions.contains(&v.trim_matches('"')) => 4,
            (m, s, None) if m == kind && s == subtype => 3,
            (m, "*", _) if m == kind => 2,
            ("*", "*", _) => 1,
            _ => continue,
        };
        // Two ranges of one kind, such as two versions: the better liked one counts.
        best = best.max((specificity, q));
    }
    Quality { q: best.1, named: best.0 >= 3 }
}

/// A list element and its weight in thousandths; what is no weight counts as none given.
fn weighted(element: &str) -> (&str, u16) {
    let q = element
        .split(';')
        .skip(1)
        .filter_map(|parameter| parameter.split_once('='))
        .find(|(name, _)| name.trim() == "q")
        .and_then(|(_, value)| value.trim().parse::<f32>().ok())
        .map_or(1000, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16);
    (element.trim(), q)
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn the_format_follows_the_clients_preference() {
        for (accept, wanted) in [
            ("", Format::Classic),
            ("*/*", Format::Classic),
            ("text/html,*/*;q=0.1", Format::Classic),
            ("application/json", Format::Classic),
            ("application/openmetrics-text", Format::OpenMetrics),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", Format::OpenMetrics),
            ("application/openmetrics-text;version=\"1.0.0\"", Format::OpenMetrics),
            ("application/openmetrics-text;version=2.0.0", Format::Classic),
            ("application/openmetrics-text;q=0", Format::Classic),
            ("application/openmetrics-text;q=0.3,text/plain;q=0.5", Format::Classic),
            ("text/plain;q=0.5, application/openmetrics-text;q=0.5", Format::OpenMetrics),
            ("application/*", Format::Classic),
            // What Prometheus 3 sends.
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            // What Prometheus sends when it is told to prefer classic text.
            (
                "text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.2",
                Format::Classic,
            ),
        ] {
            assert_eq!(format(&mk_headers(ACCEPT, accept)), wanted, "{accept}");
        }
    }

    #[test]
    fn gzip_is_sent_only_to_those_who_take_it() {
        for (accept, wanted) in [
            ("", Encoding::Identity),
            ("gzip", Encoding::Gzip),
            ("deflate, GZIP;q=0.5", Encoding::Gzip),
            ("gzip;q=0", Encoding::Identity),
            ("gzip; q=0.000, *", Encoding::Identity),
            ("*", Encoding::Gzip),
            ("*;q=0", Encoding::Identity),
            ("identity;q=1, gzip;q=0.5", Encoding::Identity),
            ("identity", Encoding::Identity),
            ("br", Encoding::Identity),
        ] {
            assert_eq!(encoding(&mk_headers(ACCEPT_ENCODING, accept)), wanted, "{accept}");
        }
    }
}
