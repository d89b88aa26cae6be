//! Pieces of a long answer over the unix socket: bytes of a file, progress, and how it ended. An
//! answer that just stops is told from one that is whole.
//!
//! A frame is its kind, 1 byte, the length of its body, 4 bytes little-endian, and the body.

use crate::exit::{Exit, Failure};
use axum::body::Bytes;
use serde_json::Value;
use std::io::{self, Write};
use tokio::sync::mpsc;

/// Longest body.
const MAX_BODY: usize = 1 << 20;
/// Bytes of a file that go in one frame.
const PIECE: usize = 128 * 1024;

/// A piece of the answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// The next bytes of the file.
    Data(Bytes),
    /// What is to come, or how far it is.
    Progress(Value),
    /// The end of an answer that is whole.
    Done(Value),
    /// The end of one that is not: an error of the API.
    Failed(Value),
}

impl Frame {
    /// The frame's bytes.
    pub fn encode(&self) -> Bytes {
        let (kind, body) = match self {
            Self::Data(bytes) => (0, bytes.clone()),
            Self::Progress(value) => (1, Bytes::from(value.to_string())),
            Self::Done(value) => (2, Bytes::from(value.to_string())),
            Self::Failed(value) => (3, Bytes::from(value.to_string())),
        };
        let mut out = Vec::with_capacity(5 + body.len());
        out.push(kind);
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(&body);
        out.into()
    }
}

fn unreadable() -> Failure {
    Failure::new(Exit::Failure, "the node's answer is not readable: is it of the same release?")
}

/// Puts frames together from chunks of any length.
#[derive(Debug, Default)]
pub struct Frames {
    pending: Vec<u8>,
}

impl Frames {
    /// Takes the next chunk.
    pub fn push(&mut self, chunk: &[u8]) {
        self.pending.extend_from_slice(chunk);
    }

    /// The next whole frame.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Failure> {
        let Some((head, rest)) = self.pending.split_first_chunk::<5>() else { return Ok(None) };
        let [kind, len @ ..] = *head;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_BODY {
            return Err(unreadable());
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let json = || serde_json::from_slice(body).map_err(|_| unreadable());
        let frame = match kind {
            0 => Frame::Data(Bytes::copy_from_slice(body)),
            1 => Frame::Progress(json()?),
            2 => Frame::Done(json()?),
            3 => Frame::Failed(json()?),
            _ => return Err(unreadable()),
        };
        self.pending.drain(..5 + len);
        Ok(Some(frame))
    }
}

/// Writes a file into an answer, from a thread that may wait.
#[derive(Debug)]
pub struct FrameWriter {
    to: mpsc::Sender<Bytes>,
    pending: Vec<u8>,
}

impl FrameWriter {
    /// A writer into this answer.
    pub const fn new(to: mpsc::Sender<Bytes>) -> Self {
        Self { to, pending: Vec::new() }
    }

    /// Another way into the same answer.
    pub fn sender(&self) -> mpsc::Sender<Bytes> {
        self.to.clone()
    }

    /// Sends another frame after what was written.
    pub fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.flush()?;
        self.put(frame)
    }

    fn put(&self, frame: &Frame) -> io::Result<()> {
        self.to.blocking_send(frame.encode()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for FrameWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let pending = Bytes::from(std::mem::take(&mut self.pending));
        // One write may be longer than a frame may be.
        (0..pending.len())
            .step_by(MAX_BODY)
            .try_for_each(|at| self.put(&Frame::Data(pending.slice(at..pending.len().min(at + MAX_BODY)))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let frames = [
            Frame::Progress(json!({"total": 1})),
            Frame::Data(Bytes::from_static(b"abc")),
            Frame::Failed(json!({"code": "full"})),
            Frame::Done(json!({})),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(|f| f.encode().to_vec()).collect();
        for cut in 1..bytes.len() {
            let (mut reader, mut out) = (Frames::default(), Vec::new());
            for chunk in bytes.chunks(cut) {
                reader.push(chunk);
                while let Some(frame) = reader.next_frame().unwrap() {
                    out.push(frame);
                }
            }
            assert_eq!(out, frames, "cut after {cut}");
        }
    }

    #[test]
    fn a_writer_keeps_the_order_and_bounds_each_frame() {
        let (to, mut from) = mpsc::channel(64);
        let mut writer = FrameWriter::new(to);
        writer.write_all(&[7; 3 * MAX_BODY]).unwrap();
        writer.write_all(b"x").unwrap();
        writer.send(&Frame::Done(json!({}))).unwrap();
        drop(writer);
        let (mut reader, mut data, mut ended) = (Frames::default(), Vec::new(), false);
        while let Some(chunk) = from.blocking_recv() {
            reader.push(&chunk);
            while let Some(frame) = reader.next_frame().unwrap() {
                match frame {
                    Frame::Data(bytes) => data.extend_from_slice(&bytes),
                    Frame::Done(_) => ended = true,
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(ended && data.len() == 3 * MAX_BODY + 1 && data.last() == Some(&b'x'));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Frames::default();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_frame() {}
        }
    }
}
