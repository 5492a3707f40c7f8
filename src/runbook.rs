//! The names that stand for a mesh and its renewal in the commands of the runbooks.

/// The text with a renewal's name for its placeholder, which is one only behind the kind.
pub fn with_renewal(text: &str, renewal: &str) -> String {
    text.replace("crn NAME ", &format!("crn {renewal} ")).replace("crn NAME\n", &format!("crn {renewal}\n"))
}

/// The text with a mesh's id and namespace for their placeholders. The Job's environment variable of the same name stays what it is.
pub fn filled(text: &str, mesh: &str, namespace: &str) -> String {
    const KEPT: &str = "\0";
    let kept = text.replace("$MESH_ID", &format!("${KEPT}")).replace("name: MESH_ID,", &format!("name: {KEPT},"));
    let filled = kept.replace("MESH_ID", mesh).replace("istio-system", namespace);
    // `KUBE_CERT_SECRET` and the like hold no placeholder.
    filled.replace(KEPT, "MESH_ID")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_is_named_behind_its_kind_alone() {
        let text = "describe crn NAME\nget crn NAME -o 'NAME:.metadata.name' NAMESPACE crn NAMES";
        let filled = "describe crn m-1\nget crn m-1 -o 'NAME:.metadata.name' NAMESPACE crn NAMES";
        assert_eq!(with_renewal(text, "m-1"), filled);
    }

    #[test]
    fn the_jobs_variable_stays_and_all_else_is_the_meshs() {
        let text = "{name: MESH_ID, value: MESH_ID} https://$MESH_ID-api -n istio-system MESH_ID-etcd";
        assert_eq!(filled(text, "m", "ns"), "{name: MESH_ID, value: m} https://$MESH_ID-api -n ns m-etcd");
    }
}
