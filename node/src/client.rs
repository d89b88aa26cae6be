//! The command line's side of the API: one HTTP/1.1 connection over the unix socket per request.

use crate::content::ChannelBody;
use crate::exit::{Exit, Failure};
use axum::body::{Body, Bytes};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::PathBuf;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// Largest answer that is read whole.
const MAX_ANSWER: usize = 256 * 1024 * 1024;

/// Where the node listens.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the node with this socket.
    pub const fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Whether a node answers.
    pub async fn is_up(&self) -> bool {
        UnixStream::connect(&self.socket).await.is_ok()
    }

    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| match e.kind() {
            std::io::ErrorKind::PermissionDenied => {
                Failure::new(Exit::Refused, format!("{} belongs to another user", self.socket.display()))
            }
            _ => Failure::new(Exit::NotRunning, "the node is not running: start it with `kith up`"),
        })?;
        let gone =
            |e: hyper::Error| Failure::new(Exit::NotRunning, format!("the node ended the connection ({e})"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(gone)?;
        // The connection's task ends with the connection; a command has no other tasks.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        sender.send_request(request).await.map_err(gone)
    }

    /// A request whose answer is JSON.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Failure> {
        let response = self.start(method, path, body).await?;
        let bytes = whole(response.into_body()).await?;
        serde_json::from_slice(&bytes)
            .map_err(|_| Failure::new(Exit::Failure, "the node's answer is not readable"))
    }

    /// A request whose answer is read piece by piece. Errors of the API are failures already.
    pub async fn start(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Response<Incoming>, Failure> {
        let builder = Request::builder().method(method).uri(path).header("host", "kith");
        let request = match body {
            Some(value) => {
                builder.header("content-type", "application/json").body(Body::from(value.to_string()))
            }
            None => builder.body(Body::empty()),
        };
        self.checked(request.map_err(|e| Failure::new(Exit::Usage, e.to_string()))?).await
    }

    async fn checked(&self, request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let response = self.send(request).await?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let bytes = whole(response.into_body()).await?;
        Err(failure_of(&serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Sends chunks as a body and returns the answer, which may come before the end: then it says why
    /// the rest is not wanted. `sent` hears the length of each chunk.
    pub async fn upload(
        &self,
        path: &str,
        header: (&str, String),
        len: Option<u64>,
        mut chunks: mpsc::Receiver<Result<Bytes, Failure>>,
        sent: impl Fn(u64),
    ) -> Result<Value, Failure> {
        let (sender, body) = ChannelBody::new(len);
        let builder = Request::post(path).header("host", "kith").header(header.0, header.1);
        let request = builder.body(Body::new(body)).map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
        let answer = async move {
            let response = self.checked(request).await?;
            let bytes = whole(response.into_body()).await?;
            serde_json::from_slice(&bytes)
                .map_err(|_| Failure::new(Exit::Failure, "the node's answer is not readable"))
        };
        let feed = async {
            let mut sender = Some(sender);
            while let Some(chunk) = chunks.recv().await {
                let chunk = chunk?;
                sent(chunk.len() as u64);
                match &sender {
                    Some(to) if to.send(chunk).await.is_ok() => {}
                    _ => sender = None,
                }
            }
            Ok::<(), Failure>(())
        };
        tokio::pin!(answer, feed);
        tokio::select! {
            value = &mut answer => value,
            fed = &mut feed => {
                fed?;
                answer.await
            }
        }
    }
}

/// An answer of many lines of JSON.
pub struct Lines {
    body: Incoming,
    pending: Vec<u8>,
}

impl Lines {
    /// The lines of an answer.
    pub fn new(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), pending: Vec::new() }
    }

    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line).unwrap_or_default()));
            }
            match next(&mut self.body).await? {
                Some(chunk) => self.pending.extend_from_slice(&chunk),
                None => return Ok(None),
            }
        }
    }
}

/// Reads an answer of many lines and shows each but the last, which it returns. `broken` is said when
/// there is none.
pub async fn lines(
    response: Response<Incoming>,
    broken: &str,
    mut show: impl FnMut(&Value),
) -> Result<Value, Failure> {
    let mut lines = Lines::new(response);
    while let Some(value) = lines.next().await? {
        match value["event"].as_str() {
            Some("done") => return Ok(value),
            Some("error") => return Err(failure_of(&value["error"])),
            _ => show(&value),
        }
    }
    Err(Failure::new(Exit::NotRunning, broken))
}

/// The failure in an API error.
pub fn failure_of(value: &Value) -> Failure {
    let text = |name| value.get(name).and_then(Value::as_str);
    let exit = text("code").and_then(Exit::from_name).unwrap_or(Exit::Failure);
    Failure::new(exit, text("detail").unwrap_or("the node refused without a reason"))
}

async fn whole(mut body: Incoming) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    while let Some(chunk) = next(&mut body).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_ANSWER {
            return Err(Failure::new(Exit::Failure, "the node's answer is too long"));
        }
    }
    Ok(bytes)
}

/// The next piece of an answer.
pub async fn next(body: &mut Incoming) -> Result<Option<Bytes>, Failure> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(_) => continue,
            },
            Some(Err(_)) => {
                return Err(Failure::new(Exit::NotRunning, "the node ended in the middle of its answer"));
            }
        }
    }
}
