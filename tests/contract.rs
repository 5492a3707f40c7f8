//! The embedded Kubernetes API answers as the real kube-apiserver does, in everything that meshcert and its tests rely on: the same calls are made to both,
//! and what they answer is compared.

#![allow(clippy::panic, clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test may")]

#[path = "contract/calls.rs"]
mod calls;
#[path = "contract/server.rs"]
mod server;
#[path = "support/mod.rs"]
mod support;

use support::daemon::Demo;
use support::real_api::RealApi;

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_api_answers_as_the_real_one() {
    let Some(real) = RealApi::start() else { return };
    let embedded = Demo::start(&["--scenario", "healthy", "--meshes", "1", "--api-only"]);
    let expected = calls::make_all(&server::Server::of(&real.kubeconfig).await).await;
    let answered = calls::make_all(&server::Server::of(&embedded.kubeconfig).await).await;
    assert!(expected.len() > 60, "{}", expected.len());
    let mut differences = String::new();
    for ((what, expected), (also, answered)) in expected.iter().zip(&answered) {
        assert_eq!(what, also);
        if expected != answered {
            differences += &format!("{what}\n  real:     {expected}\n  embedded: {answered}\n");
        }
    }
    assert!(differences.is_empty(), "{differences}");
}
