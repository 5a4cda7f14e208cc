//! Kernels as functions: one declaration for each says which file it is in and what it takes.

use super::cache::Cache;
use super::compile::{Source, Target};
use super::fault;
use super::memory::{Gpu, In, Out};
use crate::domain::{Code, Error, Result};
use cudarc::driver::sys::{self, CUfunction_attribute_enum as Attribute};
use cudarc::driver::{CudaFunction, DriverError, result};
use cudarc::nvrtc::Ptx;
use std::ffi::c_void;
use std::sync::Arc;

/// How a kernel is spread over the GPU.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Blocks, by x and y.
    pub blocks: [usize; 2],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory of a block.
    pub shared: usize,
}

impl Shape {
    /// `blocks` of `threads`.
    pub fn blocks(blocks: usize, threads: u32) -> Self {
        Self {
            blocks: [blocks, 1],
            threads,
            shared: 0,
        }
    }

    /// A thread for each of `n`.
    pub fn threads(n: usize) -> Self {
        Self::blocks(n.div_ceil(256), 256)
    }

    /// A warp for each of `n`.
    pub fn warps(n: usize) -> Self {
        Self::blocks(n.div_ceil(8), 256)
    }

    /// … with `bytes` of shared memory.
    pub fn shared(self, bytes: usize) -> Self {
        Self {
            shared: bytes,
            ..self
        }
    }
}

/// Something that a kernel takes, as the bytes of a parameter.
pub trait Argument {
    /// The value in the low bytes.
    fn bits(&self) -> u64;
    /// How many bytes of it are the parameter.
    const BYTES: usize;
}

macro_rules! arguments {
    ($($type:ty, $bytes:literal, $this:ident => $bits:expr;)*) => {
        $(impl Argument for $type {
            const BYTES: usize = $bytes;
            fn bits(&self) -> u64 {
                let $this = self;
                $bits
            }
        })*
    };
}

arguments! {
    u32, 4, v => u64::from(*v);
    u64, 8, v => *v;
    f32, 4, v => u64::from(v.to_bits());
    f64, 8, v => v.to_bits();
}

impl<T> Argument for In<'_, T> {
    const BYTES: usize = 8;
    fn bits(&self) -> u64 {
        self.0
    }
}

impl<T> Argument for Out<'_, T> {
    const BYTES: usize = 8;
    fn bits(&self) -> u64 {
        self.0
    }
}

impl<T: Argument> Argument for Option<T> {
    const BYTES: usize = T::BYTES;
    fn bits(&self) -> u64 {
        self.as_ref().map_or(0, Argument::bits)
    }
}

/// A number of elements as a kernel takes it.
///
/// # Panics
/// Beyond 2^32: callers keep batches below that.
pub fn count(n: usize) -> u32 {
    u32::try_from(n).expect("below 2^32 elements")
}

/// A kernel, ready to run.
pub struct Kernel {
    name: &'static str,
    function: CudaFunction,
}

impl Kernel {
    /// Puts the kernel behind the work that was given before. No blocks are no work.
    ///
    /// # Safety
    /// `arguments` are what the kernel takes, and what they point to is as long as it needs.
    pub(super) unsafe fn run(&self, gpu: &Gpu, shape: Shape, arguments: &mut [u64]) -> Result<()> {
        let [x, y] = shape.blocks;
        if x == 0 || y == 0 {
            return Ok(());
        }
        gpu.enter()?;
        let mut places = [std::ptr::null_mut::<c_void>(); 32];
        for (place, argument) in places.iter_mut().zip(arguments.iter_mut()) {
            *place = std::ptr::from_mut(argument).cast();
        }
        gpu.recorded(self.name, || {
            // SAFETY: the arguments outlive the call, which copies them; the rest is the caller's
            // promise.
            let done = unsafe {
                result::launch_kernel(
                    self.function.cu_function(),
                    (count(x), count(y), 1),
                    (shape.threads, 1, 1),
                    count(shape.shared),
                    gpu.stream.cu_stream(),
                    &mut places[..arguments.len()],
                )
            };
            gpu.check(self.name, done)
        })
    }

    pub(super) fn new(
        gpu: &Gpu,
        module: &Module,
        name: &'static str,
        sizes: &[usize],
    ) -> Result<Self> {
        let function = gpu.check(name, module.0.load_function(name))?;
        if module.1 > DEFAULT_SHARED {
            let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            let most = count(module.1).cast_signed();
            gpu.check(name, function.set_attribute(attribute, most))?;
        }
        expect_sizes(name, &function, sizes)?;
        Ok(Self { name, function })
    }
}

/// Shared memory that a block may have without being asked for.
const DEFAULT_SHARED: usize = 48 << 10;

/// A loaded module, and the shared memory that its kernels may ask for.
pub struct Module(Arc<cudarc::driver::CudaModule>, usize);

/// Compares a declaration with the kernel itself, where the driver can tell (CUDA 12.4).
fn expect_sizes(name: &str, function: &CudaFunction, sizes: &[usize]) -> Result<()> {
    type Info =
        unsafe extern "C" fn(sys::CUfunction, usize, *mut usize, *mut usize) -> sys::CUresult;
    // SAFETY: the type is that of the driver's API.
    let Ok(info) = (unsafe { sys::culib().get::<Info>(b"cuFuncGetParamInfo") }) else {
        return Ok(());
    };
    let mut found = Vec::new();
    let (mut offset, mut size) = (0, 0);
    // SAFETY: the function is loaded, and the pointers are valid for the call. The error at the
    // end of the parameters is how their number is told.
    while unsafe {
        info(
            function.cu_function(),
            found.len(),
            &raw mut offset,
            &raw mut size,
        )
    } == sys::CUresult::CUDA_SUCCESS
    {
        found.push(size);
    }
    if found == sizes {
        return Ok(());
    }
    Err(Error::new(
        Code::Internal,
        name,
        format_args!("takes parameters of {found:?} bytes, and is declared with {sizes:?}"),
    ))
}

/// Compiles `source`, or takes it from the cache, and loads it.
pub(super) fn load(gpu: &Gpu, target: &Target, source: &Source, cache: &Cache) -> Result<Module> {
    let code = cache.compiled(source, target)?;
    gpu.enter()?;
    let loaded = gpu.context.load_module(Ptx::from_binary(code));
    let failed = |e: DriverError| fault::error(&gpu.name, source.name, e);
    Ok(Module(loaded.map_err(failed)?, target.shared))
}

/// Declares kernels file by file: the sources, a struct with all of them, and a method for each
/// that runs it.
macro_rules! kernels {
    ($($file:literal { $($name:ident($($argument:ident: $type:ty),* $(,)?);)* })*) => {
        /// The sources, as they are compiled on the GPU's host.
        pub const SOURCES: &[Source] = &[$(Source {
            name: $file,
            text: include_str!(concat!("../../../kernels/", $file)),
        }),*];

        /// All kernels.
        #[allow(missing_docs)]
        pub struct Kernels { $($($name: Kernel,)*)* }

        #[allow(missing_docs, clippy::too_many_arguments)]
        impl Kernels {
            pub fn load(gpu: &Gpu, target: &Target, cache: &Cache) -> Result<Self> {
                let mut sources = SOURCES.iter();
                $(
                    let module = load(gpu, target, sources.next().expect($file), cache)?;
                    $(let sizes = [$(<$type as Argument>::BYTES),*];
                    let $name = Kernel::new(gpu, &module, stringify!($name), &sizes)?;)*
                )*
                Ok(Self { $($($name,)*)* })
            }

            $($(pub fn $name(&self, gpu: &Gpu, shape: Shape, $($argument: $type),*) -> Result<()> {
                // SAFETY: the declaration is compared with the kernel when it is loaded, and
                // `input` and `output` know how long what they point to is.
                unsafe { self.$name.run(gpu, shape, &mut [$($argument.bits()),*]) }
            })*)*
        }
    };
}

pub(super) use kernels;
