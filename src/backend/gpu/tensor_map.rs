//! Tensor maps: a matrix on the device as the copy engine of compute capability 9.0 sees it.

use cudarc::driver::DriverError;
use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};

use super::device::Device;
use super::tensor::{Number, Tensor};
use crate::error::Result;

/// Bytes that a row of the matrix is to be a multiple of.
const ROW_BYTES: usize = 16;
/// Numbers in a row of a box: 128 bytes of 16-bit ones, the span of the swizzle.
const BOX_COLUMNS: u32 = 64;

/// As `kernels/port_sm90a.cuh` has it; CUDA 13 aligns it so, CUDA 12 to half of that.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub(super) struct TensorMap(CUtensorMap);

/// Whether rows of so many 16-bit numbers can be told to the copy engine.
pub(super) fn takes(columns: usize) -> bool {
    columns > 0 && (columns * 2).is_multiple_of(ROW_BYTES)
}

impl TensorMap {
    /// Of a row-major matrix of 16-bit numbers, brought in boxes of `box_rows` × 64; what is beyond it becomes zeros.
    pub(super) fn of(device: &Device, tensor: &Tensor, [rows, columns]: [usize; 2], box_rows: u32) -> Result<Self> {
        assert!(rows * columns <= tensor.len, "a matrix beyond its buffer");
        Self::at(device, device.place(tensor, 0), tensor.number, [rows, columns], box_rows)
    }

    /// [`TensorMap::of`], of numbers that begin at an address.
    pub(super) fn at(
        device: &Device,
        address: u64,
        number: Number,
        [rows, columns]: [usize; 2],
        box_rows: u32,
    ) -> Result<Self> {
        assert!(takes(columns), "a matrix that the copy engine does not take");
        let number = match number {
            Number::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            Number::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            Number::F32 => unreachable!("operands of products on tensor cores are in 16 bits"),
        };
        Self::encode(number, address, [rows, columns].map(|count| count as u64), box_rows)
            .map_err(|error| device.failed("a tensor map", error))
    }

    #[allow(unsafe_code)]
    fn encode(
        number: CUtensorMapDataType,
        address: u64,
        [rows, columns]: [u64; 2],
        box_rows: u32,
    ) -> Result<Self, DriverError> {
        let mut map = Self(CUtensorMap { opaque: [0; 16] });
        let (dimensions, strides, boxes, steps) = ([columns, rows], [columns * 2], [BOX_COLUMNS, box_rows], [1, 1]);
        // SAFETY: the driver reads two numbers of each of these (one stride), and writes the map, which is aligned for
        // it. It reads nothing at the address, which is only kept.
        unsafe {
            sys::cuTensorMapEncodeTiled(
                &raw mut map.0,
                number,
                2,
                address as *mut _,
                dimensions.as_ptr(),
                strides.as_ptr(),
                boxes.as_ptr(),
                steps.as_ptr(),
                CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        }
        .result()
        .map(|()| map)
    }
}
