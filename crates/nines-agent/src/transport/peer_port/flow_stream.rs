//! Lines on which flows go from one director to another: one is asked for, the other tells.

use std::{sync::Arc, time::Duration};

use nines_model::NodeId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{interval, sleep, timeout},
};

use super::{FRAME_MAX, connect, find, get, kind, put};
use crate::flow_sync::{Asker, Behind, Flows, Unanswered, decode};

/// A line on which nothing is told says that it lives.
const ALIVE: Duration = Duration::from_secs(2);
/// One that says nothing for so long is dead.
const DEAD: Duration = Duration::from_secs(7);

/// Tells this director's flows to the member `to` until the line breaks. `subscription`: the layout
/// of its kernel tables, four bytes.
pub async fn tell(
    flows: &Arc<Flows>,
    to: u64,
    subscription: &[u8],
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
) {
    let layout = subscription.first_chunk().map(|word| u32::from_be_bytes(*word));
    let mut messages = flows.subscribe(layout);
    let (mut from, mut into) = tokio::io::split(stream);
    let unanswered = Arc::new(Unanswered::default());
    let answers = {
        let (flows, unanswered) = (Arc::clone(flows), Arc::clone(&unanswered));
        tokio::spawn(async move {
            while let Ok((kind::TAKEN, _)) = get(&mut from, FRAME_MAX).await {
                let Some(lag) = unanswered.answered() else { return };
                flows.answered(to, lag);
            }
        })
    };
    let mut alive = interval(ALIVE);
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            _ = alive.tick() => Some(Arc::default()),
        };
        let Some(message) = message.filter(|_| !answers.is_finished()) else { break };
        unanswered.sent();
        let sent = timeout(DEAD, put(&mut into, kind::FLOWS, &message)).await;
        if !matches!(sent, Ok(Ok(()))) {
            break;
        }
    }
    answers.abort();
}

/// Keeps asking the member `of` for its flows.
pub async fn ask(asker: Asker, of: NodeId, behind: Arc<Behind>) {
    loop {
        behind.set(of, true);
        // Why it ended shows in status: the node is behind.
        let _ = take(&asker, of, &behind).await;
        sleep(Duration::from_millis(500)).await;
    }
}

async fn take(asker: &Asker, of: NodeId, behind: &Behind) -> Option<()> {
    let Asker { core, credentials, flows } = asker;
    let (name, addresses) = find(core, &credentials.identity.peers, of).await?;
    let mut stream = None;
    for address in addresses {
        let attempt = timeout(Duration::from_millis(500), connect(credentials, &name, address));
        if let Ok(Ok(open)) = attempt.await {
            stream = Some(open);
            break;
        }
    }
    let mut stream = stream?;
    let mut tables = flows.changes();
    tables.mark_unchanged();
    let layout = nines_dataplane::ebpf::ABI_VERSION.to_be_bytes();
    put(&mut stream, kind::SUBSCRIBE, &layout).await.ok()?;
    let (mut strange, mut all) = (0, false);
    loop {
        let (what, message) = timeout(DEAD, get(&mut stream, FRAME_MAX)).await.ok()?.ok()?;
        if what != kind::FLOWS {
            return None;
        }
        if !message.is_empty() {
            let (batch, whole) = decode(&message)?;
            strange += flows.take(batch).await?;
            all |= whole;
            behind.set(of, !all || strange > 0);
            if all && strange > 0 {
                // Servers that are not here come with the next table; then all is asked for again.
                let _ = timeout(DEAD, tables.changed()).await;
                return None;
            }
        }
        put(&mut stream, kind::TAKEN, &[]).await.ok()?;
    }
}
