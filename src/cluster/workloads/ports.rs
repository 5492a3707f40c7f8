//! Where a pod listens: as its Service says, else as its containers say, else where such servers usually do.

use serde::Deserialize;

use crate::cluster::workloads::objects::{ServiceObject, or_default};
use crate::rollout::Listener;

/// A container, as far as its ports go.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Container {
    #[serde(deserialize_with = "or_default")]
    ports: Vec<ContainerPort>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerPort {
    name: String,
    container_port: u16,
    protocol: Option<String>,
}

/// A port of a Service.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ServicePort {
    name: String,
    port: u16,
    target_port: Option<TargetPort>,
    protocol: Option<String>,
}

/// A number, or the name of a container's port.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TargetPort {
    Number(u16),
    Name(String),
}

/// The port of a pod with these containers, which these Services (the likeliest first) lead to.
pub(super) fn find(listener: Listener, services: &[&ServiceObject], containers: &[&Container]) -> u16 {
    let declared = || containers.iter().flat_map(|container| &container.ports).filter(|port| is_tcp(&port.protocol));
    let named = |name: &str| declared().find(|port| port.name == name).map(|port| port.container_port);
    let by_service = services.iter().find_map(|service| {
        let port = of_service(listener, &service.spec.ports)?;
        match &port.target_port {
            None | Some(TargetPort::Number(0)) => Some(port.port),
            Some(TargetPort::Number(number)) => Some(*number),
            Some(TargetPort::Name(name)) => named(name),
        }
    });
    let by_name = || declared().find(|port| is_named(listener, &port.name)).map(|port| port.container_port);
    by_service.or_else(by_name).filter(|port| *port != 0).unwrap_or(listener.usual_port())
}

/// The port of a Service behind which this listens: by its name, by its number, or because there is no other.
fn of_service(listener: Listener, ports: &[ServicePort]) -> Option<&ServicePort> {
    let tcp = || ports.iter().filter(|port| is_tcp(&port.protocol));
    let only = || match (listener, tcp().count()) {
        (Listener::KubeApiserver, 1) => tcp().next(),
        // A Service of etcd with one port may be for clients or for members.
        _ => None,
    };
    tcp()
        .find(|port| is_named(listener, &port.name))
        .or_else(|| tcp().find(|port| port.port == listener.usual_port()))
        .or_else(only)
}

/// `https`, `etcd-client`, `peer`: names are chosen by whoever writes the manifest.
fn is_named(listener: Listener, name: &str) -> bool {
    let words: &[&str] = match listener {
        Listener::KubeApiserver => &["https", "apiserver"],
        Listener::EtcdClient => &["client"],
        Listener::EtcdPeer => &["peer"],
    };
    words.iter().any(|word| name.contains(word))
}

fn is_tcp(protocol: &Option<String>) -> bool {
    protocol.as_deref().is_none_or(|protocol| protocol.is_empty() || protocol == "TCP")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn found(listener: Listener, service: Value, container: Value) -> u16 {
        let service: ServiceObject = serde_json::from_value(json!({ "spec": { "ports": service } })).unwrap();
        let container: Container = serde_json::from_value(json!({ "ports": container })).unwrap();
        find(listener, &[&service], &[&container])
    }

    #[test]
    fn the_target_port_of_the_service_counts() {
        use Listener::{EtcdClient, EtcdPeer, KubeApiserver};
        let declared =
            json!([{ "name": "secure", "containerPort": 8443 }, { "name": "etcd-peer", "containerPort": 12380 }]);
        let api = |port: Value| found(KubeApiserver, json!([port]), declared.clone());
        assert_eq!(api(json!({ "port": 6443, "targetPort": 9443 })), 9443);
        assert_eq!(api(json!({ "port": 6443, "targetPort": "secure" })), 8443);
        assert_eq!(api(json!({ "port": 443 })), 443, "without one it is the Service's own");
        assert_eq!(
            api(json!({ "port": 6443, "targetPort": "elsewhere" })),
            6443,
            "a name that no container has says nothing"
        );
        let both = json!([{ "name": "metrics", "port": 8080 }, { "name": "api", "port": 6443, "targetPort": 9443 }]);
        assert_eq!(found(KubeApiserver, both, json!([])), 9443, "the known number among several");

        let etcd = json!([{ "name": "client", "port": 2379, "targetPort": 12379 }, { "name": "dns", "protocol": "UDP", "port": 2380 }]);
        assert_eq!(found(EtcdClient, etcd.clone(), declared.clone()), 12379);
        assert_eq!(found(EtcdPeer, etcd.clone(), declared), 12380, "no port of the Service: the container's");
        assert_eq!(found(EtcdPeer, etcd, Value::Null), 2380);
    }

    #[test]
    fn without_a_service_the_containers_say() {
        let declared: Container =
            serde_json::from_value(json!({ "ports": [{ "name": "https", "containerPort": 7443 }] })).unwrap();
        assert_eq!(find(Listener::KubeApiserver, &[], &[&declared]), 7443);
        assert_eq!(find(Listener::EtcdClient, &[], &[&declared]), 2379);
    }
}
