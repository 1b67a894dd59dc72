//! Page-locked memory between host and device: copies from and to it need not wait for one another. Buffers are used again, because
//! locking pages is slow.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{CU_MEMHOSTALLOC_PORTABLE, CUevent_flags};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaSlice, CudaStream, CudaView, DriverError, HostSlice, PinnedHostSlice, SyncOnDrop,
};

/// The smallest buffer: a batch's ids and a result fit most of the time.
const SMALLEST_BYTES: usize = 1 << 16;
/// Larger copies (weights, while a model is loaded) go from ordinary memory.
const LARGEST_BYTES: usize = 1 << 24;

/// Buffers nobody is using.
pub(super) struct Staging {
    context: Arc<CudaContext>,
    idle: Mutex<Vec<Buffer>>,
}

/// Page-locked memory, and the end of the copy it last took part in. cudarc's own event of it is not kept up where its tracking is off.
struct Buffer {
    memory: PinnedHostSlice<u8>,
    copied: CudaEvent,
}

impl Staging {
    pub(super) fn new(context: Arc<CudaContext>) -> Self {
        Self { context, idle: Mutex::default() }
    }

    /// `bytes` to the device, in the stream's order. They may change as soon as this returns.
    pub(super) fn upload(
        &self,
        stream: &Arc<CudaStream>,
        to: &mut CudaSlice<u8>,
        bytes: &[u8],
    ) -> Result<(), DriverError> {
        if bytes.len() > LARGEST_BYTES {
            return stream.memcpy_htod(bytes, to);
        }
        let mut buffer = self.take(bytes.len())?;
        buffer.copied.synchronize()?;
        buffer.memory.as_mut_slice()?[..bytes.len()].copy_from_slice(bytes);
        stream.memcpy_htod(&buffer.head(bytes.len()), to)?;
        buffer.copied.record(stream)?;
        self.give(buffer);
        Ok(())
    }

    /// Lets `read` see what is on the device when the stream's work until now is done.
    pub(super) fn download<R>(
        &self,
        stream: &Arc<CudaStream>,
        from: &CudaView<'_, u8>,
        read: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, DriverError> {
        let mut buffer = self.take(from.len())?;
        stream.memcpy_dtoh(from, &mut buffer.head(from.len()))?;
        buffer.copied.record(stream)?;
        buffer.copied.synchronize()?;
        let seen = read(&buffer.memory.as_slice()?[..from.len()]);
        self.give(buffer);
        Ok(seen)
    }

    /// A buffer of at least `bytes`.
    fn take(&self, bytes: usize) -> Result<Buffer, DriverError> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        match idle.iter().position(|buffer| buffer.memory.len() >= bytes) {
            Some(place) => Ok(idle.swap_remove(place)),
            None => Buffer::new(&self.context, bytes.next_power_of_two().max(SMALLEST_BYTES)),
        }
    }

    fn give(&self, buffer: Buffer) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
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
