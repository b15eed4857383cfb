//! Random columns of any kind, extremes among them, told by a seed.

use arrow::array::{ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Int32Array, Int64Array, StringArray};
use lake::{DATE_MAX, DATE_MIN};
use schemas::{Field, Kind};
use std::sync::Arc;

/// A small random generator: a failing case is told by its seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// One column of `rows` values of the kind: extremes, ordinary values and NULLs (unless required) mixed.
pub fn column(dice: &mut Dice, field: &Field, rows: usize) -> ArrayRef {
    macro_rules! values {
        ($make:expr) => {{
            let make = $make;
            (0..rows).map(|_| (field.required || dice.below(4) > 0).then(|| make(&mut *dice))).collect::<Vec<_>>()
        }};
    }
    if field.name == "date" {
        return Arc::new(Date32Array::from(values!(|d: &mut Dice| d.pick(&[DATE_MIN, -1, 0, 17_813, DATE_MAX]))));
    }
    if field.name == "dataset" {
        return Arc::new(StringArray::from(values!(|d: &mut Dice| d.pick(&["XSGE.CTP", "A B/ü%", "é'\"=", "__HIVE", "\u{1}\n"]))));
    }
    match field.kind {
        Kind::Text => Arc::new(StringArray::from(values!(|d: &mut Dice| {
            let long = "\u{10FFFF}".repeat(40) + "x";
            match d.below(5) {
                0 => String::new(),
                1 => long,
                2 => format!("ru{}\u{0}\"\\\n", d.below(100)),
                3 => "界".repeat(d.below(40) as usize),
                _ => format!("{}", d.roll()),
            }
        }))),
        Kind::I32 => Arc::new(Int32Array::from(values!(|d: &mut Dice| match d.below(3) {
            0 => d.pick(&[i32::MIN, -1, 0, i32::MAX]),
            _ => d.roll() as i32,
        }))),
        Kind::I64 | Kind::Time => Arc::new(Int64Array::from(values!(|d: &mut Dice| match d.below(3) {
            0 => d.pick(&[i64::MIN, -1, 0, i64::MAX]),
            1 => d.below(50) as i64,
            _ => d.roll() as i64,
        }))),
        Kind::Date => Arc::new(Date32Array::from(values!(|d: &mut Dice| d.pick(&[i32::MIN, DATE_MIN, 0, DATE_MAX, i32::MAX])))),
        Kind::Bool => Arc::new(BooleanArray::from(values!(|d: &mut Dice| d.below(2) == 0))),
        Kind::Bytes => {
            let made = values!(|d: &mut Dice| (0..d.below(20)).map(|_| d.roll() as u8).collect::<Vec<u8>>());
            Arc::new(BinaryArray::from_iter(made))
        }
        Kind::U64 | Kind::Price | Kind::Tokens | Kind::Amount | Kind::Factor => {
            let (precision, scale) = field.kind.decimal().unwrap();
            let most = 10i128.pow(u32::from(precision)) - 1;
            let made = values!(|d: &mut Dice| match d.below(3) {
                0 => d.pick(&[most, -most, 0, 1]),
                _ => i128::from(d.roll() as i64) % most,
            });
            Arc::new(Decimal128Array::from(made).with_precision_and_scale(precision, scale).unwrap())
        }
    }
}
