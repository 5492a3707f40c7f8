//! Accepts connections and gives up on clients that are slow on purpose.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http_body::{Frame, SizeHint};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use crate::server::room::{Room, Seat};
use crate::server::tls::{Handshake, Peer, Tls};

/// Where connections come in.
#[derive(Debug)]
pub struct Door {
    /// The socket.
    pub listener: TcpListener,
    /// Its TLS; `None` for plain HTTP for ever.
    pub tls: Option<Arc<Tls>>,
}

/// What a client may take up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. For a further one that which has been idle longest is closed; where all are busy it waits, and the ones after it in the listener's backlog.
    pub connections: usize,
    /// Bytes of a request's head.
    pub head: usize,
    /// How long a connection may be open without a request.
    pub idle: Duration,
    /// How long from a request's first byte to the answer's first byte.
    pub request: Duration,
    /// How long a client may accept no byte of an answer.
    pub stall: Duration,
    /// How long requests may go on after the shutdown began.
    pub grace: Duration,
}

/// A connection with deadlines.
#[derive(Debug)]
struct Impatient<S> {
    stream: S,
    limits: Limits,
    phase: Phase,
    seat: Seat,
    answering: Arc<AtomicBool>,
    since: Instant,
    read_timer: Pin<Box<Sleep>>,
    write_timer: Pin<Box<Sleep>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Between requests.
    Idle,
    /// From a request's first byte on.
    Receiving,
    /// From an answer's first byte on, until all of it is on its way.
    Sending,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            head: 32 << 10,
            // Longer than the usual scrape interval, so that Prometheus keeps its connection.
            idle: Duration::from_secs(75),
            request: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            grace: Duration::from_secs(10),
        }
    }
}

impl From<TcpListener> for Door {
    fn from(listener: TcpListener) -> Self {
        Self { listener, tls: None }
    }
}

/// Serves until `shutdown`; then accepts nothing more, lets requests in progress end, closes idle connections, and returns.
pub async fn serve(door: impl Into<Door>, router: Router, limits: Limits, shutdown: CancellationToken) {
    let Door { listener, tls } = door.into();
    let room = Room::with(limits.connections);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    refused(&error).await;
                    continue;
                }
            };
            let seat = room.seat().await;
            // An answer is written whole; waiting for more to send would only delay its end.
            let _ = stream.set_nodelay(true);
            let (tls, router, watcher, shutdown) = (tls.clone(), router.clone(), graceful.watcher(), shutdown.clone());
            connections.spawn(converse(stream, seat, tls, router, limits, watcher, shutdown));
            while let Some(ended) = connections.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(%error, "a request handler failed");
                }
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = accept => {}
    }
    drop(listener);
    if tokio::time::timeout(limits.grace, graceful.shutdown()).await.is_err() {
        tracing::warn!(grace = ?limits.grace, "requests were cut off at the end of the shutdown's grace");
    }
}

/// One connection, from its handshake to its end.
async fn converse(
    stream: TcpStream,
    mut seat: Seat,
    tls: Option<Arc<Tls>>,
    router: Router,
    limits: Limits,
    watcher: Watcher,
    shutdown: CancellationToken,
) {
    let Some(tls) = tls else {
        return answer(stream, seat, Peer::default(), router, limits, watcher).await;
    };
    // Who is still shaking hands has asked for nothing yet.
    let handshake = tokio::select! {
        handshake = tls.handshake(stream) => handshake,
        () = seat.claimed() => return,
        () = shutdown.cancelled() => return,
    };
    match handshake {
        Handshake::Plain(stream) => answer(stream, seat, Peer::default(), router, limits, watcher).await,
        Handshake::Done(stream, peer) => answer(stream, seat, peer, router, limits, watcher).await,
        Handshake::Failed => {}
    }
}

async fn answer<S>(stream: S, seat: Seat, peer: Peer, router: Router, limits: Limits, watcher: Watcher)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stream = Impatient::new(stream, seat, limits);
    let answering = Arc::clone(&stream.answering);
    let io = TokioIo::new(stream);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_buf_size(limits.head.max(MIN_BUFFER))
        .serve_connection(io, Introduced { router: TowerToHyperService::new(router), peer, answering });
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "connection ended early");
    }
}

/// Tells each request's handler who asks, and the connection that it is being answered.
struct Introduced {
    router: TowerToHyperService<Router>,
    peer: Peer,
    answering: Arc<AtomicBool>,
}

type Routed = TowerToHyperService<Router>;

impl Service<Request<Incoming>> for Introduced {
    type Response = <Routed as Service<Request<Incoming>>>::Response;
    type Error = <Routed as Service<Request<Incoming>>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer.clone());
        let answering = Answering::begin(&self.answering);
        let answered = self.router.call(request);
        Box::pin(async move { Ok(answered.await?.map(|body| Body::new(Answer { body, _answering: answering }))) })
    }
}

/// A request is being answered as long as this lives.
struct Answering(Arc<AtomicBool>);

impl Answering {
    fn begin(flag: &Arc<AtomicBool>) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(Arc::clone(flag))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// The body of an answer. Whoever writes it drops it with its end.
struct Answer {
    body: Body,
    _answering: Answering,
}

impl http_body::Body for Answer {
    type Data = <Body as http_body::Body>::Data;
    type Error = <Body as http_body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

async fn refused(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    // Most likely out of file descriptors: trying again at once would only burn the processor.
    tracing::warn!(%error, "cannot accept connections, trying again in a second");
    tokio::time::sleep(Duration::from_secs(1)).await;
}

impl<S> Impatient<S> {
    fn new(stream: S, seat: Seat, limits: Limits) -> Self {
        let since = Instant::now();
        let timer = || Box::pin(tokio::time::sleep_until(since));
        let (answering, phase) = (Arc::default(), Phase::Idle);
        Self { stream, limits, phase, seat, answering, since, read_timer: timer(), write_timer: timer() }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = Instant::now();
        if phase == Phase::Idle { self.seat.rest() } else { self.seat.work() }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(_)) => self.enter(Phase::Sending),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                if self.phase != Phase::Sending {
                    self.enter(Phase::Sending);
                }
                let deadline = self.since + self.limits.stall;
                ready!(expired(&mut self.write_timer, deadline, cx));
                return Poll::Ready(Err(timed_out("the client accepts no data")));
            }
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if result.is_ready() {
            if buf.filled().len() > before && self.phase != Phase::Receiving {
                self.enter(Phase::Receiving);
            }
            return result;
        }
        if self.phase == Phase::Idle && self.seat.poll_claimed(cx).is_ready() {
            return Poll::Ready(Err(timed_out("another connection needs the room")));
        }
        let (allowed, words) = match self.phase {
            Phase::Receiving => (self.limits.request, "the request took too long"),
            Phase::Idle | Phase::Sending => (self.limits.idle, "no request came"),
        };
        let deadline = self.since + allowed;
        ready!(expired(&mut self.read_timer, deadline, cx));
        Poll::Ready(Err(timed_out(words)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        // Asked for when all that there is was written: of a stream of events, some of the answer only.
        let is_whole = self.phase == Phase::Sending && !self.answering.load(Ordering::Relaxed);
        if is_whole && matches!(result, Poll::Ready(Ok(()))) {
            self.enter(Phase::Idle);
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn expired(timer: &mut Pin<Box<Sleep>>, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
    if timer.deadline() != deadline {
        timer.as_mut().reset(deadline);
    }
    timer.as_mut().poll(cx)
}

fn timed_out(words: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, words)
}

/// hyper refuses buffers below this.
const MIN_BUFFER: usize = 8 << 10;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn mk_pair(space: usize) -> (Impatient<tokio::io::DuplexStream>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(space);
        (Impatient::new(ours, Room::with(1).seat().await, Limits::default()), theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_a_request_ends_after_the_idle_time() {
        let (mut ours, _theirs) = mk_pair(64).await;
        let start = Instant::now();
        assert_eq!(ours.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_trickles_in_ends_after_the_request_time() {
        let (mut ours, mut theirs) = mk_pair(64).await;
        let start = Instant::now();
        let trickle = tokio::spawn(async move {
            while theirs.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let error = loop {
            if let Err(error) = ours.read_u8().await {
                break error;
            }
        };
        assert_eq!((error.kind(), start.elapsed().as_secs()), (io::ErrorKind::TimedOut, 15));
        drop(ours);
        trickle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_nothing_ends_after_the_stall_time_and_a_slow_one_does_not() {
        let (mut ours, mut theirs) = mk_pair(1).await;
        let slow = tokio::spawn(async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(29)).await;
                theirs.read_u8().await.unwrap();
            }
            theirs
        });
        let start = Instant::now();
        let error = ours.write_all(b"0123456789").await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed().as_secs()), (io::ErrorKind::TimedOut, 5 * 29 + 30));
        drop(slow.await.unwrap());
    }
}
