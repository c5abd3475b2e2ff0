//! Large frames to peers: log entries and whole states that fit no datagram.
//!
//! Decides: how long a line may stand still, and what is told when a frame is lost. Each peer has a
//! connection of its own, made anew when it breaks; a slow peer holds nobody else up. The consensus
//! waits for the follower's answer before it sends another state, so little waits here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nines_core::Event;
use nines_model::NodeId;
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::timeout,
};

use super::{FRAME_MAX, connect, find, kind};
use crate::{core_thread::CoreHandle, identity::Credentials, logger::Logger};

/// Frames that may wait for a peer.
const WAITING_MAX: usize = 64;
/// A frame goes out in pieces of this size: what counts is that the line moves, not the size.
const PIECE: usize = 64 * 1024;
/// A piece that the peer does not take for so long ends the line.
const STANDSTILL: Duration = Duration::from_secs(2);
/// A peer that cannot be reached is tried again after so long.
const AGAIN: Duration = Duration::from_millis(200);

/// Sends large frames to peers.
pub struct Bulk {
    credentials: Arc<Credentials>,
    core: CoreHandle,
    log: Logger,
    lines: BTreeMap<NodeId, mpsc::Sender<Vec<u8>>>,
}

impl Bulk {
    /// Nothing is connected yet.
    pub fn new(credentials: Arc<Credentials>, core: CoreHandle, log: Logger) -> Self {
        Self { credentials, core, log, lines: BTreeMap::new() }
    }

    /// Sends; a frame that is lost is told, and the consensus sends what is missing again.
    pub fn send(&mut self, to: NodeId, frame: Vec<u8>) {
        if frame.len() > FRAME_MAX {
            let (size, max) = (frame.len() >> 20, FRAME_MAX >> 20);
            self.log.line(&format!(
                "node {to} cannot be sent {size} MB: it takes {max} MB at most; the config is too \
                 large for this version"
            ));
            return;
        }
        let line = self.lines.entry(to).or_insert_with(|| {
            let (line, frames) = mpsc::channel(WAITING_MAX);
            tokio::spawn(keep_line(to, frames, Arc::clone(&self.credentials), self.core.clone()));
            line
        });
        if line.try_send(frame).is_err() {
            self.core.event(Event::Undelivered(to));
        }
    }
}

async fn keep_line(
    to: NodeId,
    mut frames: mpsc::Receiver<Vec<u8>>,
    credentials: Arc<Credentials>,
    core: CoreHandle,
) {
    let mut open = None;
    while let Some(frame) = frames.recv().await {
        if open.is_none() {
            let seed = credentials.identity.peers.clone();
            let addresses = find(&core, &seed, to).await.unwrap_or_default();
            for address in addresses {
                let attempt = timeout(Duration::from_secs(1), connect(&credentials, to, address));
                if let Ok(Ok(stream)) = attempt.await {
                    open = Some(stream);
                    break;
                }
            }
        }
        if let Some(stream) = &mut open
            && put_in_pieces(stream, &frame, STANDSTILL).await.is_ok()
        {
            continue;
        }
        open = None;
        // What waits behind it is as old: the consensus asks the follower where it stands.
        while frames.try_recv().is_ok() {}
        core.event(Event::Undelivered(to));
        tokio::time::sleep(AGAIN).await;
    }
}

/// A frame that is never late as long as the other end takes some of it.
async fn put_in_pieces(
    to: &mut (impl AsyncWrite + Unpin),
    frame: &[u8],
    standstill: Duration,
) -> std::io::Result<()> {
    let mut head = (frame.len() as u32).to_be_bytes().to_vec();
    head.push(kind::RAFT);
    let stands = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    for piece in std::iter::once(head.as_slice()).chain(frame.chunks(PIECE)) {
        timeout(standstill, to.write_all(piece)).await.map_err(stands)??;
    }
    timeout(standstill, to.flush()).await.map_err(stands)?
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap().block_on(work)
    }

    #[test]
    fn a_slow_line_is_no_broken_line_and_one_that_stands_still_is() {
        run(async {
            let frame = vec![7; 1 << 20];
            let (mut near, mut far) = tokio::io::duplex(PIECE);
            let reader = tokio::spawn(async move {
                // 16 pieces of 64 kB, each 0.1 s later than the one before: 1.6 s for the frame.
                let mut all = Vec::new();
                let mut piece = vec![0; PIECE];
                while let Ok(n @ 1..) = far.read(&mut piece).await {
                    all.extend_from_slice(&piece[..n]);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                all
            });
            let limit = Duration::from_secs(1);
            put_in_pieces(&mut near, &frame, limit).await.unwrap();
            drop(near);
            let all = reader.await.unwrap();
            assert_eq!((all.len(), all[4]), (frame.len() + 5, kind::RAFT));
            let (mut near, _far) = tokio::io::duplex(PIECE);
            let why = put_in_pieces(&mut near, &frame, limit).await.unwrap_err();
            assert_eq!(why.kind(), std::io::ErrorKind::TimedOut);
        });
    }
}
