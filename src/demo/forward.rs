//! `pods/portforward` over WebSocket, as a node serves it (subprotocol `v4.channel.k8s.io`): two channels a port, one for its bytes and one for what went wrong.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use axum::body::Body;
use axum::response::Response;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::request::Parts;
use http::{Method, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::demo::api::Api;
use crate::demo::call::Call;
use crate::demo::status::Failure;

const PROTOCOL: &str = "v4.channel.k8s.io";
/// A channel's number is a byte.
const MOST_PORTS: usize = 64;
/// Of a frame.
const CHUNK: usize = 16 << 10;

/// Where pods really listen, by uid: a node knows it, whatever address their status shows.
#[derive(Default)]
pub(super) struct Nodes(Mutex<BTreeMap<String, Ipv4Addr>>);

impl Nodes {
    pub(super) fn runs(&self, uid: &str, address: Ipv4Addr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), address);
    }

    pub(super) fn ended(&self, uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    fn address(&self, uid: &str) -> Option<Ipv4Addr> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied()
    }
}

impl Api {
    /// Answers a request to forward ports; what is forwarded goes on until one of the two ends.
    pub(super) fn forward(&self, call: &Call, head: &mut Parts) -> Result<Response, Failure> {
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let offered = header(SEC_WEBSOCKET_PROTOCOL);
        let speaks = head.method == Method::GET && header(UPGRADE).eq_ignore_ascii_case("websocket");
        if !speaks || !offered.split(',').any(|one| one.trim() == PROTOCOL) {
            return Err(Failure::bad_request(format!(
                "the embedded API forwards ports over WebSocket with the subprotocol {PROTOCOL} alone, not over SPDY or SPDY in a tunnel, as kubectl does"
            )));
        }
        let accept = derive_accept_key(header(SEC_WEBSOCKET_KEY).as_bytes());
        let key = call.key()?;
        let pod = self.store.get(&key).ok_or_else(|| Failure::not_found(&key))?;
        let uid = pod.value["metadata"]["uid"].as_str().unwrap_or_default();
        let address = self.nodes.address(uid);
        let address = address.ok_or_else(|| Failure::bad_request(format!("pod {:?} is not running", key.2)))?;
        let ports = call.query.get("ports").map(String::as_str).unwrap_or_default();
        let ports: Result<Vec<u16>, _> = ports.split(',').map(str::parse).collect();
        let ports = ports.ok().filter(|ports| ports.len() <= MOST_PORTS);
        let ports = ports.ok_or_else(|| Failure::bad_request("the parameter \"ports\" must list port numbers"))?;
        let Some(upgrade) = head.extensions.remove::<OnUpgrade>() else {
            return Err(Failure::bad_request("this connection cannot be upgraded"));
        };
        let pod = key.2.to_string();
        // It ends with the client's connection, or with the pod's servers.
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                // What breaks has told the client so by breaking.
                let _ = carry(upgraded, &pod, address, &ports).await;
            }
        });
        let response = Response::builder()
            .status(StatusCode::SWITCHING_PROTOCOLS)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_ACCEPT, accept)
            .header(SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
        response.body(Body::empty()).map_err(|error| Failure::bad_request(error.to_string()))
    }
}

async fn carry(
    upgraded: Upgraded,
    pod: &str,
    address: Ipv4Addr,
    ports: &[u16],
) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let (mut to_client, mut from_client) = socket.split();
    let (frames, mut from_pod) = mpsc::channel(16);
    let (mut readers, mut writers) = (JoinSet::new(), Vec::new());
    for (data, port) in (0_u8..).step_by(2).zip(ports) {
        // Each channel begins with the number of its port.
        for channel in [data, data + 1] {
            to_client.send(frame(channel, &port.to_le_bytes())).await?;
        }
        match TcpStream::connect((address, *port)).await {
            Ok(stream) => {
                let (reader, writer) = stream.into_split();
                readers.spawn(pump(reader, data, frames.clone()));
                writers.push(Some(writer));
            }
            Err(error) => {
                let complaint = format!("error forwarding port {port} to pod {pod}: {error}");
                to_client.send(frame(data + 1, complaint.as_bytes())).await?;
                writers.push(None);
            }
        }
    }
    drop(frames);
    loop {
        tokio::select! {
            frame = from_pod.recv() => match frame {
                Some(frame) => to_client.send(frame).await?,
                None => break,
            },
            message = from_client.next() => match message.transpose()? {
                Some(Message::Binary(bytes)) => {
                    let writer = bytes.first().and_then(|channel| writers.get_mut(usize::from(channel / 2)));
                    if let Some(Some(writer)) = writer {
                        writer.write_all(&bytes[1..]).await?;
                    }
                }
                Some(Message::Close(_)) | None => break,
                Some(_) => {}
            },
        }
    }
    to_client.close().await
}

/// Reads what the pod says, until it ends.
async fn pump(mut reader: OwnedReadHalf, channel: u8, frames: mpsc::Sender<Message>) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(read @ 1..) = reader.read(&mut chunk).await {
        if frames.send(frame(channel, &chunk[..read])).await.is_err() {
            return;
        }
    }
}

fn frame(channel: u8, bytes: &[u8]) -> Message {
    Message::binary([&[channel], bytes].concat())
}
