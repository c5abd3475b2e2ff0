//! What a client sees: a fresh connection every 5 ms, and long-lived ones that ask every 50 ms.
//!
//! Decides: what counts. A fresh request that fails or takes 3 s has failed; an outage is the
//! longest time in which no fresh request ended well.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// From one fresh connection to the next.
pub const PERIOD: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(3);
/// Long-lived connections held.
pub const HELD: usize = 20;

/// One fresh request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When it began.
    pub began: Instant,
    /// When it ended.
    pub ended: Instant,
    /// Which server answered; `None`: it failed.
    pub server: Option<String>,
}

/// What was seen; clones share it.
#[derive(Clone, Default)]
pub struct Probe {
    samples: Arc<Mutex<Vec<Sample>>>,
    open: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    /// Long-lived connections asked for anew.
    renew: Arc<AtomicUsize>,
}

/// What a window showed.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Longest time without a good answer, ms.
    pub outage_ms: f64,
    /// Longest single request, ms.
    pub longest_wait_ms: f64,
    /// Number of requests with a good answer.
    pub ok: usize,
    /// Number of requests without a good answer.
    pub failed: usize,
    /// Median latency, ms.
    pub p50_ms: f64,
    /// 99th percentile, ms.
    pub p99_ms: f64,
}

async fn fresh(to: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", to.ip());
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    if !text.starts_with("HTTP/1.1 200") {
        return Err(std::io::Error::other("not 200"));
    }
    Ok(text.lines().last().unwrap_or_default().to_owned())
}

/// One long-lived connection; ends when it breaks.
async fn held(to: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", to.ip());
    let mut buffer = [0; 1_024];
    loop {
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        // The body is the server's name and a newline.
        while !answer.ends_with(b"\n")
            || !answer.windows(4).any(|w| w == b"\r\n\r\n")
            || answer.ends_with(b"\r\n")
        {
            match stream.read(&mut buffer).await? {
                0 => return Err(std::io::Error::other("closed")),
                n => answer.extend_from_slice(&buffer[..n]),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

impl Probe {
    /// Runs in the calling thread's network until [`Probe::end`].
    pub fn run(&self, to: SocketAddr) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        runtime.block_on(async {
            let mut tick = tokio::time::interval(PERIOD);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            while !self.stop.load(Ordering::Relaxed) {
                tick.tick().await;
                self.hold_more(to);
                let samples = Arc::clone(&self.samples);
                tokio::spawn(async move {
                    let began = Instant::now();
                    let answer = timeout(PATIENCE, fresh(to)).await;
                    let server = answer.ok().and_then(Result::ok);
                    let sample = Sample { began, ended: Instant::now(), server };
                    let mut samples = samples.lock().expect("nobody panics with it");
                    samples.push(sample);
                    if samples.len() > 200_000 {
                        samples.drain(..100_000);
                    }
                });
            }
        });
    }

    fn hold_more(&self, to: SocketAddr) {
        for _ in 0..self.renew.swap(0, Ordering::Relaxed) {
            let open = Arc::clone(&self.open);
            open.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let _ = held(to).await;
                open.fetch_sub(1, Ordering::Relaxed);
            });
        }
    }

    /// Asks for the full number of long-lived connections.
    pub fn fill(&self) {
        let missing = HELD.saturating_sub(self.open.load(Ordering::Relaxed));
        self.renew.store(missing, Ordering::Relaxed);
    }

    /// Long-lived connections that live.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Ends the client's threads.
    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Samples that began since then.
    pub fn since(&self, since: Instant) -> Vec<Sample> {
        let samples = self.samples.lock().expect("nobody panics with it");
        samples.iter().filter(|s| s.began >= since).cloned().collect()
    }

    /// What the window from `since` to now showed.
    pub fn seen(&self, since: Instant, until: Instant) -> Seen {
        let samples = self.since(since);
        let samples: Vec<&Sample> = samples.iter().filter(|s| s.began <= until).collect();
        let mut good: Vec<Instant> =
            samples.iter().filter(|s| s.server.is_some()).map(|s| s.ended).collect();
        good.sort_unstable();
        let mut waits: Vec<f64> = samples
            .iter()
            .filter(|s| s.server.is_some())
            .map(|s| ms(s.ended.duration_since(s.began)))
            .collect();
        waits.sort_by(f64::total_cmp);
        let mut marks = vec![since];
        marks.extend(good.iter().filter(|t| **t <= until));
        marks.push(until);
        let gap = marks.windows(2).map(|w| ms(w[1].duration_since(w[0]))).fold(0.0, f64::max);
        let at = |q: f64| waits.get((waits.len() as f64 * q) as usize).copied().unwrap_or(0.0);
        Seen {
            outage_ms: gap,
            longest_wait_ms: waits.last().copied().unwrap_or(0.0),
            ok: good.len(),
            failed: samples.iter().filter(|s| s.server.is_none()).count(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
        }
    }
}

/// In ms, three digits after the point kept.
pub fn ms(d: Duration) -> f64 {
    d.as_micros() as f64 / 1_000.0
}
