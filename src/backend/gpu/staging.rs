//! Page-locked memory between host and device: copies from and to it need not wait for one another. Buffers are used
//! again, because locking pages is slow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{CU_MEMHOSTALLOC_PORTABLE, CUevent_flags};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, CudaView, DriverError, HostSlice, PinnedHostSlice, SyncOnDrop,
};
use rayon::prelude::*;

use crate::sync::lock;

/// The smallest buffer: a batch's ids and a result fit most of the time.
const SMALLEST_BYTES: usize = 1 << 16;
/// The largest: more is copied buffer by buffer, one filled while the one before it is on its way.
const LARGEST_BYTES: usize = 1 << 24;
/// Above this a buffer is filled by several cores: one alone is slower than the bus.
const SHARED_BYTES: usize = 1 << 21;
/// How often a result is asked after before it is waited for, a microsecond or two each.
const QUERIES: usize = 200;
/// How many buffers of a size may be on their way before the first is waited for.
const MOST_ON_THEIR_WAY: usize = 3;

/// Buffers nobody is using.
pub(super) struct Staging {
    context: Arc<CudaContext>,
    /// The one that was given back first comes first.
    idle: Mutex<VecDeque<Buffer>>,
}

/// Page-locked memory, and the end of the copy it last took part in. cudarc's own event of it is not kept up where its
/// tracking is off.
struct Buffer {
    memory: PinnedHostSlice<u8>,
    copied: CudaEvent,
}

impl Staging {
    pub(super) fn new(context: Arc<CudaContext>) -> Self {
        Self { context, idle: Mutex::default() }
    }

    /// Parts, one behind the other, to the device, in the stream's order. They may change as soon as this returns.
    pub(super) fn upload(
        &self,
        stream: &Arc<CudaStream>,
        to: &mut CudaSlice<u8>,
        parts: &[&[u8]],
    ) -> Result<(), DriverError> {
        let mut start = 0;
        for pieces in pieces(parts, LARGEST_BYTES) {
            let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
            let mut buffer = self.take(bytes, MOST_ON_THEIR_WAY)?;
            fill(&mut buffer.memory.as_mut_slice()?[..bytes], &pieces);
            stream.memcpy_htod(&buffer.head(bytes), &mut to.slice_mut(start..start + bytes))?;
            buffer.copied.record(stream)?;
            self.give(buffer);
            start += bytes;
        }
        Ok(())
    }

    /// Lets `read` see what some buffers hold, each with its place in the list, when the stream's work until now is
    /// done.
    pub(super) fn download(
        &self,
        stream: &Arc<CudaStream>,
        from: &[CudaView<'_, u8>],
        mut read: impl FnMut(usize, &[u8]),
    ) -> Result<(), DriverError> {
        let begin = |from: &CudaView<'_, u8>| {
            // What waits for results should not wait for what is sent beside them: there are never many more of these
            // than threads.
            let mut buffer = self.take(from.len(), usize::MAX)?;
            stream.memcpy_dtoh(from, &mut buffer.head(from.len()))?;
            buffer.copied.record(stream)?;
            Ok(buffer)
        };
        let begun: Vec<Buffer> = from.iter().map(begin).collect::<Result<_, DriverError>>()?;
        for (place, (buffer, from)) in begun.into_iter().zip(from).enumerate() {
            buffer.wait()?;
            read(place, &buffer.memory.as_slice()?[..from.len()]);
            self.give(buffer);
        }
        Ok(())
    }

    /// A buffer of at least `bytes` that no copy reads or writes any more: one whose copy is done; else a new one,
    /// until there are `most` of that size to wait for the first.
    fn take(&self, bytes: usize, most: usize) -> Result<Buffer, DriverError> {
        let size = bytes.next_power_of_two().max(SMALLEST_BYTES);
        let found = self.idle_of(bytes, size, most);
        let Some(buffer) = found else { return Buffer::new(&self.context, size) };
        buffer.copied.synchronize()?;
        Ok(buffer)
    }

    fn idle_of(&self, bytes: usize, size: usize, most: usize) -> Option<Buffer> {
        let mut idle = lock(&self.idle);
        let fits = |buffer: &Buffer| buffer.memory.len() >= bytes;
        let ready = idle.iter().position(|buffer| fits(buffer) && buffer.copied.is_complete());
        let on_their_way = idle.iter().filter(|buffer| buffer.memory.len() == size).count();
        let oldest = || idle.iter().position(fits).filter(|_| on_their_way >= most);
        ready.or_else(oldest).and_then(|place| idle.remove(place))
    }

    fn give(&self, buffer: Buffer) {
        lock(&self.idle).push_back(buffer);
    }
}

/// Parts cut and put together to at most `most` bytes each.
fn pieces<'a>(parts: &[&'a [u8]], most: usize) -> Vec<Vec<&'a [u8]>> {
    let mut pieces: Vec<Vec<&[u8]>> = Vec::new();
    let mut room = 0;
    for &part in parts {
        let mut left = part;
        while !left.is_empty() {
            if room == 0 {
                pieces.push(Vec::new());
                room = most;
            }
            let (piece, rest) = left.split_at(left.len().min(room));
            pieces.last_mut().expect("one was just put there").push(piece);
            (left, room) = (rest, room - piece.len());
        }
    }
    pieces
}

fn fill(mut buffer: &mut [u8], pieces: &[&[u8]]) {
    for piece in pieces {
        let (own, rest) = buffer.split_at_mut(piece.len());
        if piece.len() <= SHARED_BYTES {
            own.copy_from_slice(piece);
        } else {
            let chunks = own.par_chunks_mut(SHARED_BYTES / 4).zip(piece.par_chunks(SHARED_BYTES / 4));
            chunks.for_each(|(own, piece)| own.copy_from_slice(piece));
        }
        buffer = rest;
    }
}

impl Buffer {
    #[allow(unsafe_code)]
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self, DriverError> {
        // SAFETY: bytes have no invalid values. Not write-combined: results are read from it.
        let memory = unsafe { context.alloc_pinned_with_flags(bytes, CU_MEMHOSTALLOC_PORTABLE) }?;
        // The processor has better to do than to spin until a copy is done.
        Ok(Self { memory, copied: context.new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))? })
    }

    /// Until its copy is done. To be woken takes longer than most results: they are asked after first, for some hundred
    /// microseconds.
    fn wait(&self) -> Result<(), DriverError> {
        if (0..QUERIES).any(|_| self.copied.is_complete()) { Ok(()) } else { self.copied.synchronize() }
    }

    /// The first bytes.
    fn head(&mut self, len: usize) -> Head<'_> {
        Head { memory: &mut self.memory, len }
    }
}

impl Drop for Buffer {
    /// Memory is not let go while a copy may still be under way. A device that has failed has no copies.
    fn drop(&mut self) {
        self.copied.synchronize().unwrap_or_default();
    }
}

/// The first bytes of a buffer, as cudarc's copies take them: they copy as much as the host's side holds.
struct Head<'a> {
    memory: &'a mut PinnedHostSlice<u8>,
    len: usize,
}

#[allow(unsafe_code)] // the buffer's own promises, passed on
impl HostSlice<u8> for Head<'_> {
    fn len(&self) -> usize {
        self.len
    }

    unsafe fn stream_synced_slice<'a>(&'a self, stream: &'a CudaStream) -> (&'a [u8], SyncOnDrop<'a>) {
        // SAFETY: as the caller promises.
        let (bytes, sync) = unsafe { self.memory.stream_synced_slice(stream) };
        (&bytes[..self.len], sync)
    }

    unsafe fn stream_synced_mut_slice<'a>(&'a mut self, stream: &'a CudaStream) -> (&'a mut [u8], SyncOnDrop<'a>) {
        // SAFETY: as the caller promises.
        let (bytes, sync) = unsafe { self.memory.stream_synced_mut_slice(stream) };
        (&mut bytes[..self.len], sync)
    }
}
