//! The names that stand for a mesh in the commands of the runbooks.

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
    fn the_jobs_variable_stays_and_all_else_is_the_meshs() {
        let text = "{name: MESH_ID, value: MESH_ID} https://$MESH_ID-api -n istio-system MESH_ID-etcd";
        assert_eq!(filled(text, "m", "ns"), "{name: MESH_ID, value: m} https://$MESH_ID-api -n ns m-etcd");
    }
}
