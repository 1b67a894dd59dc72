//! What goes in comes out.

use half::{bf16, f16};
use proptest::prelude::*;
use wherefore::backend::cpu::dot;
use wherefore::factors::{FactorRows, FactorSource, Floats, LabelVec, Labels};
use wherefore::model::Problem;
use wherefore::store::{Block, Dtype, Part, Shard, Store, StoredRecord};

use super::{block, create, head, settings};

const PROBLEMS: [Problem; 4] = [Problem::SingleLabel, Problem::MultiLabel, Problem::Regression, Problem::Headless];
const DTYPES: [Dtype; 4] = [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::Int8];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_goes_in_comes_out(
        problem in prop::sample::select(&PROBLEMS[..]),
        dtype in prop::sample::select(&DTYPES[..]),
        checkpoints in 0_usize..3,
        width in 1_usize..70,
        total in 0_u64..14,
        skipped in prop::collection::vec(0_u64..14, 0..6),
    ) {
        let mut settings = settings(problem, dtype, checkpoints);
        settings.width = width;
        let numbers: Vec<u64> = Part::WHOLE.blocks(total, settings.block_records).collect();
        let blocks: Vec<Block> = numbers.iter().map(|number| block(&settings, *number, total, &skipped)).collect();
        let directory = tempfile::tempdir().unwrap();
        let mut writer = create(directory.path(), &settings, Part::WHOLE, false).unwrap();
        // The order of the work must not matter.
        blocks.iter().rev().for_each(|block| writer.write(block).unwrap());
        writer.finish(total).unwrap();

        let store = Store::open(directory.path()).unwrap();
        prop_assert_eq!(store.settings(), &settings);
        prop_assert_eq!(store.head().cloned(), head(&settings));
        prop_assert_eq!(store.records_total(), total);
        prop_assert_eq!(store.rows(), blocks.iter().map(Block::rows).sum::<usize>());
        prop_assert_eq!(store.shards().len(), blocks.len());
        for (shard, block) in store.shards().iter().zip(&blocks) {
            check_shard(shard, block, dtype);
        }
        check_rows(&store, &blocks);
        prop_assert!(wherefore::store::verify(directory.path()).unwrap().is_sound());
    }
}

fn check_shard(shard: &Shard, block: &Block, dtype: Dtype) {
    assert_eq!((shard.number(), shard.rows()), (block.number, block.rows()));
    assert_eq!(shard.indices(), block.indices);
    assert_eq!(shard.losses(), block.losses);
    assert_same_labels(shard.labels(), &block.labels);
    assert_same_labels(shard.predictions(), &block.predictions);
    check_factors(&shard.factors(), &block.features, &block.deltas, dtype);
    for (c, (features, deltas)) in block.checkpoints.iter().enumerate() {
        check_factors(&shard.checkpoint(c), features, deltas, dtype);
    }
    let records: Vec<StoredRecord> = (0..shard.rows()).map(|row| shard.record(row).unwrap()).collect();
    assert_eq!(records, block.records);
    shard.release();
    assert_eq!(shard.indices(), block.indices, "what was released is read again");
}

/// Bits, since rows without a label are NaN.
fn assert_same_labels(found: Labels<'_>, expected: &LabelVec) {
    match (found, expected) {
        (Labels::Classes(found), LabelVec::Classes(expected)) => assert_eq!(found, expected),
        (Labels::Rows(found), LabelVec::Rows(expected)) => {
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(found), bits(expected));
        }
        _ => panic!("labels of another kind"),
    }
}

fn check_factors(found: &FactorRows<'_>, features: &[f32], deltas: &[f32], dtype: Dtype) {
    let stored: Vec<f32> = match (found.features, dtype) {
        (Floats::F32(values), Dtype::F32) => values.to_vec(),
        (Floats::F16(values), Dtype::F16) => values.iter().map(|value| value.to_f32()).collect(),
        (Floats::Bf16(values), Dtype::Bf16) => values.iter().map(|value| value.to_f32()).collect(),
        (Floats::Int8(rows), Dtype::Int8) => rows.to_f32(),
        _ => panic!("features of another type"),
    };
    let largest = |row: &[f32]| row.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    for (row, stored) in features.chunks(found.width).zip(stored.chunks(found.width)) {
        // Of integers, steps are as wide as a row's largest number needs.
        let step = largest(row) / 127.0;
        let rounded = |(value, stored): (&f32, &f32)| match dtype {
            Dtype::F32 => value == stored,
            Dtype::F16 => f16::from_f32(*value).to_f32() == *stored,
            Dtype::Bf16 => bf16::from_f32(*value).to_f32() == *stored,
            Dtype::Int8 => (value - stored).abs() <= step * 0.500_01,
        };
        assert!(row.iter().zip(stored).all(rounded), "rounded once, to nearest");
    }
    assert_eq!(found.deltas, deltas);
    check_norms(found.feature_norms, &stored, found.width);
    check_norms(found.delta_norms, deltas, found.classes);
}

/// Norms are of what is stored, have the bits of the program's one dot product, and are as close to the truth as its
/// bound says: half the relative error γ of the sum of squares (all terms positive), and the root's own rounding.
fn check_norms(norms: &[f32], rows: &[f32], width: usize) {
    let unit = f64::from(f32::EPSILON) / 2.0;
    let bound = (width.div_ceil(16) + 4) as f64 * unit / 2.0 + unit;
    for (row, norm) in norms.iter().enumerate() {
        let values = &rows[row * width..(row + 1) * width];
        let exact = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        assert_eq!(norm.to_bits(), dot(values, values).sqrt().to_bits());
        assert!((f64::from(*norm) - exact).abs() <= 1.01 * bound * exact, "{norm} is not {exact}");
    }
}

/// Rows over all shards, and the same through the refits' door.
fn check_rows(store: &Store, blocks: &[Block]) {
    let indices: Vec<u64> = blocks.iter().flat_map(|block| block.indices.clone()).collect();
    for (row, index) in indices.iter().enumerate() {
        let (shard, at) = store.locate(row);
        assert_eq!(store.shards()[shard].indices()[at], *index);
        assert_eq!(store.first_row(shard) + at, row);
        assert_eq!(store.find(*index), Some(row));
        assert_eq!(store.record(row).unwrap().id, format!("id-{index}"));
    }
    let last = indices.last().map_or(0, |index| index + 1);
    assert_eq!(store.find(last), None);
    assert_eq!(store.piece_rows(), blocks.iter().map(Block::rows).collect::<Vec<_>>());
    for (i, block) in blocks.iter().enumerate() {
        assert_eq!(store.piece(i).features.len(), block.features.len());
        assert_same_labels(store.piece(i).labels, &block.labels);
    }
}

#[test]
fn labels_come_back_as_they_were_written() {
    use wherefore::dataset::Label;
    let settings = super::plain();
    let mut block = block(&settings, 0, 4, &[]);
    let many = Label::Many(vec![Label::Name("a".into()), Label::Integer(2)]);
    let labels = [Label::Number(1.0), Label::Number(0.1), Label::Name("1".into()), many];
    for (record, label) in block.records.iter_mut().zip(&labels) {
        record.label = Some(label.clone());
    }
    let directory = tempfile::tempdir().unwrap();
    let mut writer = create(directory.path(), &settings, Part::WHOLE, false).unwrap();
    writer.write(&block).unwrap();
    writer.finish(4).unwrap();
    let store = Store::open(directory.path()).unwrap();
    for (row, label) in labels.iter().enumerate() {
        assert_eq!(store.record(row).unwrap().label.as_ref(), Some(label));
    }
}
