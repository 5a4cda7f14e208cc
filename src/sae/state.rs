//! The state of a trainer as named tensors, bit for bit.

use super::params::Name;
use super::trainer::SaeTrainer;
use crate::device::Real;
use crate::device::sae::SaeOps;
use crate::domain::loss_scale::LossScale;
use crate::domain::{Code, Error, Result};
use std::borrow::Cow;

/// Element types of state tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// f32.
    F32,
    /// f64.
    F64,
    /// u32.
    U32,
    /// u64.
    U64,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct StateTensor<'a> {
    /// Its name, unique within the SAE.
    pub name: String,
    /// Type of its elements.
    pub dtype: Dtype,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its elements in the host's byte order (little-endian on every supported host).
    pub bytes: Cow<'a, [u8]>,
}

impl<D: SaeOps> SaeTrainer<D> {
    /// Everything that the next step depends on: parameters, moments, counters, the
    /// threshold, the number of steps, the factors of the activations and the loss scale.
    ///
    /// # Errors
    /// Those of reading the device.
    pub fn state(&self, device: &D) -> Result<Vec<StateTensor<'static>>> {
        let mut state = Vec::new();
        for (set, params) in [
            ("param", &self.params),
            ("adam.m", &self.moments.first),
            ("adam.v", &self.moments.second),
        ] {
            for (name, buf) in params.each() {
                let text = format!("{set}.{}", name.as_str());
                let values = device.download(buf)?;
                state.push(StateTensor::reals(text, self.dims.shape(name), &values));
            }
        }
        state.push(StateTensor::new("since_fired", self.dead.counters()));
        state.push(StateTensor::new("steps", &[self.steps]));
        state.push(StateTensor::new("scales", &self.scales));
        // NaN where there is none yet.
        let theta = self.theta.unwrap_or(f64::NAN);
        state.push(StateTensor::new("theta", &[theta]));
        if let Some(scale) = self.loss_scale {
            state.push(StateTensor::new(LOSS_SCALE, &[scale.scale()]));
            let good_steps = u64::from(scale.good_steps());
            state.push(StateTensor::new(GOOD_STEPS, &[good_steps]));
        }
        Ok(state)
    }

    /// Takes the state of a trainer with the same settings; the next step is then
    /// bit for bit the one that trainer would have done.
    ///
    /// # Errors
    /// `checkpoint-mismatch` about the tensor that is missing or of another shape or dtype;
    /// the trainer must not be used then.
    pub fn load_state(&mut self, device: &D, state: &[StateTensor<'_>]) -> Result<()> {
        let tensors = Tensors(state);
        for (set, params) in [
            ("param", &mut self.params),
            ("adam.m", &mut self.moments.first),
            ("adam.v", &mut self.moments.second),
        ] {
            for (name, buf) in params.each_mut() {
                let text = format!("{set}.{}", name.as_str());
                let values: Vec<D::Real> = tensors.reals(&text, &self.dims.shape(name))?;
                device.write(buf, 0, &values)?;
            }
        }
        let counters: Vec<u32> = tensors.read("since_fired", self.dims.d_sae)?;
        self.dead.set_counters(&counters);
        self.steps = tensors.read("steps", 1)?[0];
        let scales: Vec<f64> = tensors.read("scales", 2)?;
        self.scales = [scales[0], scales[1]];
        self.theta = Some(tensors.read("theta", 1)?[0]).filter(|theta: &f64| !theta.is_nan());
        if self.loss_scale.is_some() {
            self.loss_scale = Some(tensors.loss_scale()?);
        }
        Ok(())
    }
}

impl<D: SaeOps> SaeTrainer<D> {
    /// Takes the weights of another trainer with autoencoders of the same shapes: its
    /// parameters, its factors of the activations and its threshold. Moments and counters
    /// stay those of a new one.
    ///
    /// # Errors
    /// `checkpoint-mismatch` about the tensor that is missing, too many or of another shape
    /// or dtype; the trainer must not be used then.
    pub fn load_weights(&mut self, device: &D, state: &[StateTensor<'_>]) -> Result<()> {
        let own: Vec<String> = self.params.each().map(|(name, _)| param(name)).collect();
        let mut theirs = state.iter().filter(|t| t.name.starts_with(PARAM));
        if let Some(extra) = theirs.find(|tensor| !own.contains(&tensor.name)) {
            let message = "an autoencoder of this variant has no such tensor";
            return Err(Error::new(Code::CheckpointMismatch, &extra.name, message));
        }
        let tensors = Tensors(state);
        for (name, buf) in self.params.each_mut() {
            let values: Vec<D::Real> = tensors.reals(&param(name), &self.dims.shape(name))?;
            device.write(buf, 0, &values)?;
        }
        let scales: Vec<f64> = tensors.read("scales", 2)?;
        self.scales = [scales[0], scales[1]];
        self.theta = Some(tensors.read("theta", 1)?[0]).filter(|theta: &f64| !theta.is_nan());
        Ok(())
    }
}

/// The loss scale, and its good steps.
const LOSS_SCALE: &str = "loss_scale";
const GOOD_STEPS: &str = "loss_scale.good_steps";

/// What the names of parameters begin with.
const PARAM: &str = "param.";

fn param(name: Name) -> String {
    format!("{PARAM}{}", name.as_str())
}

/// An element of a state tensor.
pub(super) trait Element: bytemuck::Pod {
    const DTYPE: Dtype;
}

impl Element for u32 {
    const DTYPE: Dtype = Dtype::U32;
}

impl Element for u64 {
    const DTYPE: Dtype = Dtype::U64;
}

impl Element for f64 {
    const DTYPE: Dtype = Dtype::F64;
}

impl StateTensor<'static> {
    pub(super) fn new<T: Element>(name: &str, values: &[T]) -> Self {
        Self::raw(name, T::DTYPE, vec![values.len()], values)
    }

    pub(super) fn reals<R: Real>(name: String, shape: Vec<usize>, values: &[R]) -> Self {
        Self::raw(&name, dtype_of::<R>(), shape, values)
    }

    fn raw<T: bytemuck::Pod>(name: &str, dtype: Dtype, shape: Vec<usize>, values: &[T]) -> Self {
        Self {
            name: name.to_owned(),
            dtype,
            shape,
            bytes: Cow::Owned(bytemuck::cast_slice(values).to_vec()),
        }
    }
}

/// How numbers of a backend are stored.
fn dtype_of<R: Real>() -> Dtype {
    match size_of::<R>() {
        4 => Dtype::F32,
        _ => Dtype::F64,
    }
}

/// Tensors of a checkpoint, to be asked for by name.
pub(super) struct Tensors<'a>(pub &'a [StateTensor<'a>]);

impl Tensors<'_> {
    pub fn read<T: Element>(&self, name: &str, len: usize) -> Result<Vec<T>> {
        self.raw(name, T::DTYPE, &[len])
    }

    pub fn reals<R: Real>(&self, name: &str, shape: &[usize]) -> Result<Vec<R>> {
        self.raw(name, dtype_of::<R>(), shape)
    }

    /// A new one where there is none.
    fn loss_scale(&self) -> Result<LossScale> {
        if !self.0.iter().any(|tensor| tensor.name == LOSS_SCALE) {
            return Ok(LossScale::default());
        }
        let scale = self.read::<f64>(LOSS_SCALE, 1)?[0];
        let good_steps = self.read::<u64>(GOOD_STEPS, 1)?[0];
        LossScale::kept(scale, good_steps).ok_or_else(|| {
            let message = format!("{scale} after {good_steps} steps is no loss scale");
            Error::new(Code::CheckpointMismatch, LOSS_SCALE, message)
        })
    }

    fn raw<T: bytemuck::Pod>(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<Vec<T>> {
        let fail = |message: String| {
            Error::new(Code::CheckpointMismatch, name, message)
                .hint("the checkpoint belongs to a run with other settings: start a new run")
        };
        let tensor = self.0.iter().find(|tensor| tensor.name == name);
        let tensor = tensor.ok_or_else(|| fail("the tensor is missing".to_owned()))?;
        if tensor.dtype != dtype || tensor.shape != shape {
            return Err(fail(format!(
                "it is {:?} {:?}, expected {dtype:?} {shape:?}",
                tensor.dtype, tensor.shape
            )));
        }
        let elements: usize = shape.iter().product();
        if tensor.bytes.len() != elements * size_of::<T>() {
            return Err(fail("its length is not that of its shape".to_owned()));
        }
        // The bytes may lie anywhere in a mapped file.
        let values = tensor.bytes.chunks_exact(size_of::<T>());
        Ok(values.map(bytemuck::pod_read_unaligned).collect())
    }
}
