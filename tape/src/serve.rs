//! One listener over HTTP/1: how many connections it holds, how long a client may take to ask and to take its answer, and how it ends.

use crate::problem::problem;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};

/// Connections that are held at once; the next wait in the system's queue until one ends.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take to send the head of a request, and stay silent between two: so long at most do the silent keep others out.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the body may take after the head.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a body; a route may allow fewer.
const BODY_BYTES_MAX: usize = 2 << 20;
/// How long a client may take nothing of an answer that is ready.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long answers that are under way when the process is told to stop may still take.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after the system refused a connection, for example because too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until `stop` is ready, then ends what is under way within [`GRACE`].
pub async fn serve(listener: TcpListener, routes: Router, stop: impl Future<Output = ()>) {
    let routes = routes.layer(from_fn(whole_request));
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            (stream, place) = accept(&listener, &places) => {
                connections.spawn(connection(stream, place, routes.clone(), stopped.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(GRACE, ended).await.is_err() {
        tracing::warn!("{} answers over HTTP were broken off: told to stop", connections.len());
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let place = places.clone().acquire_owned().await.expect("this semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(why) => {
                tracing::debug!("no connection was accepted: {why}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, place: OwnedSemaphorePermit, routes: Router, mut stopped: watch::Receiver<bool>) {
    let io = TokioIo::new(Stalling { stream, since: None });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(io, TowerToHyperService::new(routes));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = until(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(why) = ended {
        tracing::debug!("a connection was broken off: {why}");
    }
    drop(place);
}

async fn until(stopped: &mut watch::Receiver<bool>) {
    // A sender that is gone has stopped, too.
    let _stopped = stopped.wait_for(|stopped| *stopped).await;
}

/// Hands a request on once it has come whole.
async fn whole_request(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match timeout(BODY_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(_)) => problem(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has at most {BODY_BYTES_MAX} bytes")),
        Err(_) => {
            let late = problem(StatusCode::REQUEST_TIMEOUT, format!("the body did not come within {} s", BODY_TIMEOUT.as_secs()));
            ([("connection", "close")], late).into_response()
        }
    }
}

/// A connection that breaks off when its client takes nothing for [`STALL_TIMEOUT`] of what is ready for it.
struct Stalling {
    stream: TcpStream,
    /// Runs while something is ready and is not taken.
    since: Option<Pin<Box<Sleep>>>,
}

impl Stalling {
    fn watch<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.since = None;
            return written;
        }
        let since = self.since.get_or_insert_with(|| Box::pin(sleep(STALL_TIMEOUT)));
        since.as_mut().poll(context).map(|()| Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Stalling {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Stalling {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
