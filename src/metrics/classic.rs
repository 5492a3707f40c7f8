//! From OpenMetrics 1.0 to the classic text format 0.0.4.

/// Appends an OpenMetrics text as prometheus-client writes it (`# HELP`, `# TYPE`, `# UNIT`, samples without timestamps or exemplars) in the classic format: no units and no end mark,
/// counters and infos named as their samples, types that the classic format does not know under the nearest that it knows.
pub(crate) fn append(out: &mut String, open_metrics: &str) {
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "stateset" => ("", "gauge"),
                "unknown" => ("", "untyped"),
                other => ("", other),
            };
            if let Some((_, text)) = help.take().filter(|(of, _)| *of == name) {
                out.extend(["# HELP ", name, suffix, " ", text, "\n"]);
            }
            out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            out.extend([line, "\n"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_take_the_names_of_their_samples_and_units_go() {
        let mut out = String::new();
        append(
            &mut out,
            "# HELP a_seconds A.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total 1.5\n\
             # HELP b B.\n# TYPE b info\nb_info{x=\"# TYPE\\n\"} 1\n# HELP c C.\n# TYPE c unknown\nc 2\n# EOF\n",
        );
        assert_eq!(
            out,
            "# HELP a_seconds_total A.\n# TYPE a_seconds_total counter\na_seconds_total 1.5\n\
             # HELP b_info B.\n# TYPE b_info gauge\nb_info{x=\"# TYPE\\n\"} 1\n# HELP c C.\n# TYPE c untyped\nc 2\n"
        );
    }
}
