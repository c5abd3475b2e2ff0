//! The three streams of a child, none of which ever makes its watcher wait.
//!
//! Decides: that output past its bound is read and thrown away, so that no child waits for its
//! reader, and how long output is read after the end.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, ioctl_fionbio},
};

use crate::{run::Output, start::Waiting};

/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// What a child is given to read, and what it has written so far.
pub struct Streams {
    stdin: Option<OwnedFd>,
    input: Vec<u8>,
    written: usize,
    outputs: [Stream; 2],
    buffer: Vec<u8>,
    bytes_max: usize,
}

/// A stream from the child.
struct Stream {
    pipe: Option<OwnedFd>,
    read: Output,
}

impl Streams {
    /// Those of this child. Of its output as of its errors so many bytes are kept.
    pub fn new(child: &mut Waiting, input: Vec<u8>, bytes_max: usize) -> io::Result<Self> {
        let [stdin, stdout, stderr] = [&mut child.stdin, &mut child.stdout, &mut child.stderr];
        let taken = [stdin.take(), stdout.take(), stderr.take()];
        for pipe in taken.iter().flatten() {
            ioctl_fionbio(pipe, true)?;
        }
        let [stdin, stdout, stderr] = taken;
        let outputs = [stdout, stderr].map(|pipe| Stream { pipe, read: Output::default() });
        Ok(Self { stdin, input, written: 0, outputs, buffer: vec![0; READ_BYTES], bytes_max })
    }

    /// What to wait for.
    pub fn watched(&self) -> impl Iterator<Item = PollFd<'_>> {
        let pipes = self.outputs.iter().filter_map(|stream| stream.pipe.as_ref());
        let outputs = pipes.map(|pipe| PollFd::new(pipe, PollFlags::IN));
        outputs.chain(self.stdin.iter().map(|pipe| PollFd::new(pipe, PollFlags::OUT)))
    }

    /// Carries what can be carried now.
    pub fn carry(&mut self) {
        self.write();
        for stream in &mut self.outputs {
            stream.read(&mut self.buffer, self.bytes_max);
        }
    }

    /// Writes as much of its input as fits; closes the pipe after the last byte, or when the child
    /// has closed it.
    fn write(&mut self) {
        let Some(stdin) = &self.stdin else { return };
        match rustix::io::write(stdin, &self.input[self.written..]) {
            Ok(count) => self.written += count,
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.written = self.input.len(),
        }
        if self.written == self.input.len() {
            self.stdin = None;
        }
    }

    /// Reads what is left in the pipes, until `limit` has passed. If all who could write were
    /// killed, to the end; a process that stays may hold them open for ever.
    pub fn read_rest(&mut self, to_the_end: bool, limit: Duration) {
        self.stdin = None;
        let until = Instant::now() + limit;
        for stream in &mut self.outputs {
            while let Some(pipe) = &stream.pipe {
                let left = until.saturating_duration_since(Instant::now());
                let patience = if to_the_end { left } else { Duration::ZERO };
                let mut watched = [PollFd::new(pipe, PollFlags::IN)];
                let timeout = Timespec::try_from(patience).ok();
                // One that writes without end would keep this from ever ending.
                let late = Instant::now() >= until;
                if late || !matches!(poll(&mut watched, timeout.as_ref()), Ok(1..)) {
                    break;
                }
                stream.read(&mut self.buffer, self.bytes_max);
            }
        }
    }

    /// The output and the errors; nothing is left of them.
    pub fn take(&mut self) -> [Output; 2] {
        self.outputs.each_mut().map(|stream| std::mem::take(&mut stream.read))
    }
}

impl Stream {
    /// Takes what is there; the pipe is closed when nobody writes any more.
    fn read(&mut self, buffer: &mut [u8], bytes_max: usize) {
        let Some(pipe) = &self.pipe else { return };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.read.take(&buffer[..count], bytes_max),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.pipe = None,
        }
    }
}
