//! A CUDA device: whether there is one, its context and stream, the kernels it was given, and launching them.
//!
//! Everything is asked for in an order in which nothing panics: the driver's library first, then the driver, then
//! devices. Kernels go down one stream, so that buffers are safe to use again as soon as they are let go of; a second
//! worker's batch keeps the device busy while the first one waits for its results. Copies go down two more, one a
//! direction, beside the kernels: what is copied to the device lives in its stream's order, and is waited for by the
//! kernels launched after [`Device::await_sent`]. On compute capability 9.0 and later a kernel is begun while the last
//! blocks of the one before it are at work, and itself waits for their end (`await_kernels` of `kernels/port.cuh`), so
//! that no time passes between them; `WHEREFORE_LAUNCHES=serial` goes without.

use std::collections::HashMap;
use std::env;
use std::ffi::c_void;
use std::fmt;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute, CUresult};
use cudarc::driver::{CudaContext, CudaEvent, CudaFunction, CudaSlice, CudaStream, CudaView, DriverError, result};
use cudarc::nvrtc::Ptx;

use super::images::{self, Image};
use super::resident::{Key, Resident};
use super::staging::Staging;
use super::tensor::{Number, Order, Tensor};
use super::tensor_map::TensorMap;
use crate::error::{Error, Result};
use crate::sync::lock;

/// The oldest driver that runs what CUDA 12 compiles.
const OLDEST_DRIVER: i32 = 12_000;
/// The oldest devices the kernels are written for: those with bf16 and asynchronous copies.
const OLDEST_CAPABILITY: (i32, i32) = (8, 0);
/// Of memory, a part is left to a model at work and to the next store.
const KEPT_FREE: usize = 8;
/// Files of this ending are compiled for compute capability 9.0 alone, and other devices do without them.
const FOR_90: &str = "_wgmma";
/// The least that kernels must be compiled for to wait for one another by themselves.
const FIRST_TO_AWAIT: i32 = 90;
/// `serial` lets the driver wait between kernels on every device.
const VARIABLE: &str = "WHEREFORE_LAUNCHES";
/// Shared memory a block may use without asking.
const SHARED_BYTES_UNASKED: u32 = 48 * 1024;

/// What is known of a device before it is used.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Info {
    /// Its number.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// Its memory in bytes.
    pub memory: usize,
    /// The CUDA version its driver is for, as 1000 × major + 10 × minor.
    pub driver: i32,
}

/// Every device of the machine.
///
/// # Errors
/// [`Error::Device`] where there is no driver, or none that answers.
pub fn devices() -> Result<Vec<Info>> {
    let driver = driver_version()?;
    let count = result::device::get_count().map_err(driver_failed)?;
    (0..count as usize).map(|ordinal| Info::ask(ordinal, driver).map_err(driver_failed)).collect()
}

/// The CUDA version the installed driver is for.
fn driver_version() -> Result<i32> {
    if !library_is_there() {
        return Err(Error::Device("no NVIDIA driver was found (libcuda.so.1)".to_owned(), None)
            .with_hint("install the driver, or run with --device cpu"));
    }
    result::init().map_err(driver_failed)?;
    let mut version = 0;
    ask_version(&mut version).map_err(driver_failed)?;
    if version < OLDEST_DRIVER {
        let found =
            format!("the NVIDIA driver is for CUDA {}.{}: expected 12.0 or later", version / 1000, version % 1000 / 10);
        return Err(Error::Device(found, None).with_hint("update the driver to 525 or later, or run with --device cpu"));
    }
    Ok(version)
}

#[allow(unsafe_code)]
fn library_is_there() -> bool {
    // SAFETY: loads the driver's library and lets it go again; nothing of it is called.
    unsafe { sys::is_culib_present() }
}

#[allow(unsafe_code)]
fn ask_version(version: &mut i32) -> Result<(), DriverError> {
    // SAFETY: the driver is initialised, and writes one integer.
    unsafe { sys::cuDriverGetVersion(version) }.result()
}

fn driver_failed(error: DriverError) -> Error {
    let hint = match error.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => "the driver sees no device: run with --device cpu",
        _ => "look at what nvidia-smi says, or run with --device cpu",
    };
    Error::Device(format!("the NVIDIA driver: {}", describe(error)), Some(hint.to_owned()))
}

/// The driver's own words for an error.
fn describe(error: DriverError) -> String {
    let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
    text.unwrap_or_else(|_| format!("error {}", error.0 as u32))
}

impl Info {
    fn ask(ordinal: usize, driver: i32) -> Result<Self, DriverError> {
        let device = result::device::get(ordinal as i32)?;
        let name = result::device::get_name(device)?;
        let major = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        Ok(Self { ordinal, name, capability: (major, minor), memory: total_memory(device)?, driver })
    }

    /// `cuda:0 (NVIDIA H100, 9.0)`, which errors begin with.
    pub(super) fn title(&self) -> String {
        format!("cuda:{} ({}, {}.{})", self.ordinal, self.name, self.capability.0, self.capability.1)
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gibibytes, driver) = (self.memory as f64 / f64::from(1 << 30), self.driver);
        write!(f, "{}, {gibibytes:.1} GiB, driver for CUDA {}.{}", self.title(), driver / 1000, driver % 1000 / 10)
    }
}

#[allow(unsafe_code)]
fn attribute(device: sys::CUdevice, attribute: Attribute) -> Result<i32, DriverError> {
    // SAFETY: the device was given by the driver.
    unsafe { result::device::get_attribute(device, attribute) }
}

#[allow(unsafe_code)]
fn total_memory(device: sys::CUdevice) -> Result<usize, DriverError> {
    // SAFETY: the device was given by the driver.
    unsafe { result::device::total_mem(device) }
}

/// A device in use.
pub(super) struct Device {
    info: Info,
    multiprocessors: usize,
    context: Arc<CudaContext>,
    streams: Streams,
    kernels: HashMap<&'static str, Kernel>,
    staging: Staging,
    resident: Resident,
    turn: Mutex<()>,
}

/// What runs one after another; between streams only events tell before from after.
struct Streams {
    kernels: Arc<CudaStream>,
    /// Copies to the device.
    sending: Arc<CudaStream>,
    /// Copies from it.
    fetching: Arc<CudaStream>,
}

/// A kernel on the device.
struct Kernel {
    function: CudaFunction,
    /// Whether it may be begun before the last one has ended.
    early: bool,
    /// Shared memory a block was granted so far.
    granted: AtomicU32,
    /// Held by who asks for more: of two at once the one that asks for less must not have the last word.
    asking: Mutex<()>,
}

/// A launch's sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Blocks, by their two indices.
    pub(super) grid: [usize; 2],
    /// Threads of a block.
    pub(super) threads: usize,
    /// Dynamic shared memory of a block.
    pub(super) shared_bytes: usize,
}

/// One argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument {
    Address(u64),
    Integer(i32),
    Float(f32),
    Map(TensorMap),
}

impl Argument {
    fn bytes(&self) -> usize {
        match self {
            Self::Address(_) => 8,
            Self::Integer(_) | Self::Float(_) => 4,
            Self::Map(_) => size_of::<TensorMap>(),
        }
    }

    /// Where its value lies.
    fn pointer(&self) -> *mut c_void {
        match self {
            Self::Address(address) => ptr::from_ref(address).cast_mut().cast(),
            Self::Integer(value) => ptr::from_ref(value).cast_mut().cast(),
            Self::Float(value) => ptr::from_ref(value).cast_mut().cast(),
            Self::Map(map) => ptr::from_ref(map).cast_mut().cast(),
        }
    }
}

impl From<usize> for Argument {
    fn from(value: usize) -> Self {
        Self::Integer(i32::try_from(value).expect("sizes of a batch are far below 2³¹"))
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

impl Device {
    /// Opens a device and gives it the kernels of `images`, which `list` names by stem.
    pub(super) fn open(ordinal: usize, images: &[Image], list: &[(&str, &[&'static str])]) -> Result<Self> {
        images::check(images)?;
        let devices = devices()?;
        let Some(info) = devices.get(ordinal).cloned() else {
            let found = format!("cuda:{ordinal}: expected one of the machine's {} devices", devices.len());
            return Err(Error::Device(found, None).with_hint("see wherefore doctor"));
        };
        if info.capability < OLDEST_CAPABILITY {
            let found = format!("{}: expected compute capability 8.0 or later", info.title());
            return Err(Error::Device(found, Some("run with --device cpu".to_owned())));
        }
        Self::start(info.clone(), images, list).map_err(|error| match failed(&info, "start", error) {
            full @ Error::OutOfMemory(..) => {
                full.with_hint("end what else runs on the device, or run with --device cpu")
            }
            other => other,
        })
    }

    fn start(info: Info, images: &[Image], list: &[(&str, &[&'static str])]) -> Result<Self, DriverError> {
        let context = CudaContext::new(info.ordinal)?;
        ignore_events(&context);
        keep_freed_memory(&context)?;
        let stream = || context.new_stream();
        let streams = Streams { kernels: stream()?, sending: stream()?, fetching: stream()? };
        let multiprocessors = context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize;
        let serial = env::var(VARIABLE).is_ok_and(|wanted| wanted == "serial");
        let mut kernels = HashMap::new();
        for (stem, names) in list {
            let image = images.iter().find(|(name, _)| name == stem).map_or(&[][..], |(_, image)| image);
            if stem.ends_with(FOR_90) && (info.capability != (9, 0) || image.is_empty()) {
                continue;
            }
            let module = context.load_module(Ptx::from_binary(image.to_vec()))?;
            for name in *names {
                let function = module.load_function(name)?;
                // A PTX for older devices that the driver compiled for this one has no instruction to wait by.
                let early = !serial && info.capability.0 >= 9 && function.ptx_version()? >= FIRST_TO_AWAIT;
                kernels.insert(*name, Kernel::new(function, early));
            }
        }
        let staging = Staging::new(context.clone());
        Ok(Self {
            info,
            multiprocessors,
            context,
            streams,
            kernels,
            staging,
            resident: Resident::default(),
            turn: Mutex::default(),
        })
    }

    pub(super) fn info(&self) -> &Info {
        &self.info
    }

    /// How many blocks run side by side at least.
    pub(super) fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    /// Bytes nobody has asked for, those freed and kept for the next that asks included; 0 where the driver does not
    /// say.
    pub(super) fn free_memory(&self) -> usize {
        self.context.mem_get_info().map_or(0, |(free, _)| free) + kept_memory(&self.context).unwrap_or(0)
    }

    /// What stays on the device between searches.
    pub(super) fn resident(&self) -> &Resident {
        &self.resident
    }

    /// The buffer of this name, or what `make` makes: kept under that name where there is room for its `bytes`.
    pub(super) fn resident_or(
        &self,
        key: Option<Key>,
        bytes: usize,
        make: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Arc<Tensor>> {
        let resident = &self.resident;
        if let Some(tensor) = key.as_ref().and_then(|key| resident.get(key)) {
            return Ok(tensor);
        }
        let has_room = || self.free_memory().saturating_sub(bytes) > self.info.memory / KEPT_FREE;
        let keep = key.filter(|_| has_room() || (resident.forget_unread() && has_room()));
        let tensor = Arc::new(make()?);
        if let Some(key) = keep {
            resident.keep(key, &tensor);
        }
        Ok(tensor)
    }

    /// Room for `len` numbers; nothing is written to it.
    pub(super) fn allocate(&self, number: Number, len: usize) -> Result<Tensor> {
        let memory = self.bytes(&self.streams.kernels, len.max(1) * number.bytes())?;
        Ok(Tensor { order: None, memory, number, len })
    }

    /// Where there is no room, what was only kept for later searches makes it.
    fn bytes(&self, stream: &Arc<CudaStream>, bytes: usize) -> Result<CudaSlice<u8>> {
        let out_of_memory = |error: &DriverError| error.0 == CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let mut allocated = allocate(stream, bytes);
        if allocated.as_ref().is_err_and(out_of_memory) && self.resident.forget() {
            allocated = self.context.synchronize().and_then(|()| allocate(stream, bytes));
        }
        allocated.map_err(|error| {
            let free = out_of_memory(&error).then(|| self.free_memory());
            let free = free.map_or(String::new(), |free| format!(" {bytes} bytes where {free} are free"));
            self.failed(&format!("allocate{free}"), error)
        })
    }

    /// A buffer with these bytes, for the kernels launched from now on.
    pub(super) fn upload(&self, number: Number, bytes: &[u8]) -> Result<Tensor> {
        self.upload_parts(number, &[bytes])
    }

    /// The same of parts, one behind the other.
    pub(super) fn upload_parts(&self, number: Number, parts: &[&[u8]]) -> Result<Tensor> {
        let tensor = self.send(number, parts)?;
        self.await_sent(&self.sent()?)?;
        Ok(tensor)
    }

    /// A buffer with these bytes, one part behind the other, on their way beside the kernels: [`Device::await_sent`]
    /// comes before its first use.
    pub(super) fn send(&self, number: Number, parts: &[&[u8]]) -> Result<Tensor> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let (len, stream) = (bytes / number.bytes(), &self.streams.sending);
        let mut memory = self.bytes(stream, bytes.max(1))?;
        let copied = self.staging.upload(stream, &mut memory, parts);
        copied.map_err(|error| self.failed("copy to the device", error))?;
        let order = Some(Order { used: Arc::clone(&self.streams.kernels), freed: Arc::clone(stream) });
        Ok(Tensor { order, memory, number, len })
    }

    /// The end of everything sent so far.
    pub(super) fn sent(&self) -> Result<CudaEvent> {
        self.streams.sending.record_event(None).map_err(|error| self.failed("copy to the device", error))
    }

    /// Lets kernels launched from now on wait for what was sent.
    pub(super) fn await_sent(&self, sent: &CudaEvent) -> Result<()> {
        self.streams.kernels.wait(sent).map_err(|error| self.failed("copy to the device", error))
    }

    /// The first bytes of a buffer, to `read`, when the kernels launched until now have run.
    pub(super) fn download<R>(&self, tensor: &Tensor, bytes: usize, read: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let (mut read, mut seen) = (Some(read), None);
        self.fetch(&[tensor.memory.slice(..bytes)], |_, bytes| seen = read.take().map(|read| read(bytes)))?;
        Ok(seen.expect("each buffer is read once"))
    }

    /// What buffers hold, to `read` with their places in the list, when the kernels launched until now have run.
    pub(super) fn fetch(&self, buffers: &[CudaView<'_, u8>], read: impl FnMut(usize, &[u8])) -> Result<()> {
        let Streams { kernels, fetching, .. } = &self.streams;
        let fetched = fetching.join(kernels).and_then(|()| self.staging.download(fetching, buffers, read));
        fetched.map_err(|error| self.failed("copy from the device", error))
    }

    /// Held by who launches kernels that others' should not come in between of.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        lock(&self.turn)
    }

    /// Makes every byte of a buffer zero, when the kernels launched until now have run.
    pub(super) fn clear(&self, tensor: &mut Tensor) -> Result<()> {
        self.streams.kernels.memset_zeros(&mut tensor.memory).map_err(|error| self.failed("clear", error))
    }

    /// Where a buffer lies, from an element on.
    pub(super) fn address(&self, tensor: &Tensor, element: usize) -> Argument {
        Argument::Address(self.place(tensor, element))
    }

    /// [`Device::address`], as a number.
    pub(super) fn place(&self, tensor: &Tensor, element: usize) -> u64 {
        use cudarc::driver::DevicePtr;
        let (address, _) = tensor.memory.device_ptr(&self.streams.kernels);
        address + (element * tensor.number.bytes()) as u64
    }

    /// Whether the device has this kernel: some are for some devices alone.
    pub(super) fn has(&self, name: &str) -> bool {
        self.kernels.contains_key(name)
    }

    /// Puts a kernel's run at the end of the stream.
    pub(super) fn launch(&self, name: &str, shape: Shape, arguments: &[Argument]) -> Result<()> {
        let kernel = self.kernels.get(name).expect("launchers name kernels that they list");
        self.try_launch(kernel, shape, arguments).map_err(|error| self.failed(name, error))
    }

    /// Whether the driver can be asked what a kernel takes: those for CUDA 12.4 and later.
    fn tells_parameters(&self) -> bool {
        self.info.driver >= 12_040
    }

    #[allow(unsafe_code)]
    fn try_launch(&self, kernel: &Kernel, shape: Shape, arguments: &[Argument]) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        let shared_bytes = shape.shared_bytes as u32;
        kernel.ask_for(shared_bytes)?;
        debug_assert!(
            !self.tells_parameters() || kernel.takes(arguments),
            "other arguments than the kernel's parameters: {arguments:?}"
        );
        let mut arguments: Vec<_> = arguments.iter().map(Argument::pointer).collect();
        let mut early = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: shape.grid[0] as u32,
            gridDimY: shape.grid[1] as u32,
            gridDimZ: 1,
            blockDimX: shape.threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: shared_bytes,
            hStream: self.streams.kernels.cu_stream(),
            attrs: &raw mut early,
            numAttrs: kernel.early.into(),
        };
        let function = kernel.function.cu_function();
        // SAFETY: the launcher passes what the kernel's file says of its parameters, which the driver copies, over
        // buffers it has checked to be large enough. They are freed, if at all, when this stream has come past what was
        // launched on them.
        unsafe { sys::cuLaunchKernelEx(&raw const config, function, arguments.as_mut_ptr(), ptr::null_mut()) }.result()
    }

    pub(super) fn failed(&self, what: &str, error: DriverError) -> Error {
        failed(&self.info, what, error)
    }
}

impl Kernel {
    fn new(function: CudaFunction, early: bool) -> Self {
        Self { function, early, granted: AtomicU32::new(SHARED_BYTES_UNASKED), asking: Mutex::default() }
    }

    /// Asks for shared memory, where it needs more than it was granted so far.
    fn ask_for(&self, bytes: u32) -> Result<(), DriverError> {
        if self.granted.load(Ordering::Acquire) >= bytes {
            return Ok(());
        }
        let _asking = lock(&self.asking);
        if self.granted.load(Ordering::Acquire) < bytes {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            self.function.set_attribute(most, bytes as i32)?;
            self.granted.store(bytes, Ordering::Release);
        }
        Ok(())
    }

    /// Whether the kernel has parameters of these sizes and no more.
    #[allow(unsafe_code)]
    fn takes(&self, arguments: &[Argument]) -> bool {
        let size_of = |index| {
            let (mut offset, mut bytes) = (0, 0);
            // SAFETY: the function is alive, and the driver writes two integers.
            let status =
                unsafe { sys::cuFuncGetParamInfo(self.function.cu_function(), index, &raw mut offset, &raw mut bytes) };
            status.result().ok().map(|()| bytes)
        };
        let expected = arguments.iter().map(|argument| Some(argument.bytes()));
        expected.chain([None]).enumerate().all(|(index, bytes)| size_of(index) == bytes)
    }
}

/// [`Device`] orders its streams itself: cudarc need keep no events for each buffer.
#[allow(unsafe_code)]
fn ignore_events(context: &CudaContext) {
    // SAFETY: nothing has been allocated yet. Buffers are freed on the stream of the kernels that use them, or as their
    // [`Order`] has it.
    unsafe { context.disable_event_tracking() };
}

/// The pool that buffers come from.
#[allow(unsafe_code)]
fn pool(context: &CudaContext) -> Result<sys::CUmemoryPool, DriverError> {
    let mut pool = ptr::null_mut();
    // SAFETY: the driver writes a handle.
    unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, context.cu_device()) }.result()?;
    Ok(pool)
}

/// Keeps what is freed for the next that asks: else every wait for a stream would give it back to the driver, which
/// takes long to give again.
#[allow(unsafe_code)]
fn keep_freed_memory(context: &CudaContext) -> Result<(), DriverError> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    let mut all = u64::MAX;
    let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the attribute is a u64, which the driver reads.
    unsafe { sys::cuMemPoolSetAttribute(pool(context)?, attribute, (&raw mut all).cast()) }.result()
}

/// Bytes that are freed and kept.
#[allow(unsafe_code)]
fn kept_memory(context: &CudaContext) -> Result<usize, DriverError> {
    use sys::CUmemPool_attribute::{CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, CU_MEMPOOL_ATTR_USED_MEM_CURRENT};
    if !context.has_async_alloc() {
        return Ok(0);
    }
    context.bind_to_thread()?;
    let pool = pool(context)?;
    let ask = |attribute| {
        let mut bytes = 0_u64;
        // SAFETY: the attribute is a u64, which the driver writes.
        unsafe { sys::cuMemPoolGetAttribute(pool, attribute, (&raw mut bytes).cast()) }.result().map(|()| bytes)
    };
    Ok(ask(CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?.saturating_sub(ask(CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?) as usize)
}

#[allow(unsafe_code)]
fn allocate(stream: &Arc<CudaStream>, bytes: usize) -> Result<CudaSlice<u8>, DriverError> {
    // SAFETY: bytes have no invalid values; nobody reads them before a kernel or a copy has written them.
    unsafe { stream.alloc(bytes) }
}

/// Memory may be missing for a launch, or of the host's for a copy, as well.
fn failed(info: &Info, what: &str, error: DriverError) -> Error {
    let text = |found: &str| format!("{}: {what}: {found}", info.title());
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory(
            text("out of memory"),
            Some("take fewer tokens at a time with --batch-tokens".to_owned()),
        ),
        code => Error::Device(text(&describe(error)), hint(code).map(str::to_owned)),
    }
}

fn hint(error: CUresult) -> Option<&'static str> {
    match error {
        CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        | CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUresult::CUDA_ERROR_INVALID_IMAGE => Some(
            "this binary has no kernels that this device and driver can load: update the driver (what CUDA 13 compiled needs 580, what CUDA 12.9 did 550), or run with --device cpu",
        ),
        CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE => Some(
            "the device is lost to this process: finished shards stay, --resume goes on; wherefore doctor checks every kernel; on compute capability 9.0 WHEREFORE_TENSOR_CORES=mma goes without wgmma, from then on WHEREFORE_LAUNCHES=serial without early launches",
        ),
        _ => None,
    }
}
