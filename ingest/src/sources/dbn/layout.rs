//! Where every field of every DBN record stands, by version and record type: one table that is read forwards by `row.rs` and backwards by
//! `write_back.rs`.
//!
//! Source: the record structs of the `dbn` crate 0.73 (`record.rs`, `compat.rs`); a test compares every size and every offset with them.

use dbn::rtype;
use schemas::Family;

/// Length of the header that every record of the versions 1 to 3 begins with: length, rtype, publisher_id, instrument_id, ts_event.
pub(super) const HEADER_LEN: usize = 16;
/// Length of the send time that live records carry at their end where the metadata says `ts_out`.
pub(super) const TS_OUT_LEN: usize = 8;
/// The length byte counts units of four bytes, so no record is longer.
pub(super) const RECORD_LEN_MAX: usize = 255 * 4;

/// How a field is written in a record, and what stands there when it has no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// i64 × 10⁻⁹; `i64::MAX` = none.
    Price,
    /// u64 nanoseconds since 1970 UTC; `u64::MAX` = none.
    Time,
    /// u64 number.
    U64,
    /// u64 whole quantity that a column with nine decimals holds.
    Volume,
    /// i64 whole quantity that a column with nine decimals holds; `i64::MAX` = none.
    Quantity64,
    /// i32 whole quantity that a column with nine decimals holds; `i32::MAX` = none.
    Quantity32,
    /// u32 quantity; `u32::MAX` = none.
    Size,
    /// u32 number.
    U32,
    /// u32 number whose column holds 64 bits without sign, because later versions have them.
    U32Wide,
    /// i32 number.
    I32,
    /// i32 number; `i32::MAX` = none.
    I32Opt,
    /// u16 number.
    U16,
    /// u16 number; `u16::MAX` = none.
    U16Opt,
    /// i16 number; `i16::MAX` = none.
    I16Opt,
    /// u8 number.
    U8,
    /// u8 number; `u8::MAX` = none.
    U8Opt,
    /// i8 number; `i8::MAX` = none.
    I8Opt,
    /// One letter; 0 = none.
    Char,
    /// Text up to the first 0 byte, in so many bytes.
    Text(usize),
    /// Number of a symbology type, told as its name; 255 = none.
    SType,
    /// Reserved bytes, which no column holds.
    Reserved(usize),
}

impl Wire {
    /// Bytes in the record.
    pub(super) const fn width(self) -> usize {
        match self {
            Wire::Price | Wire::Time | Wire::U64 | Wire::Volume | Wire::Quantity64 => 8,
            Wire::Quantity32 | Wire::Size | Wire::U32 | Wire::U32Wide | Wire::I32 | Wire::I32Opt => 4,
            Wire::U16 | Wire::U16Opt | Wire::I16Opt => 2,
            Wire::U8 | Wire::U8Opt | Wire::I8Opt | Wire::Char | Wire::SType => 1,
            Wire::Text(n) | Wire::Reserved(n) => n,
        }
    }
}

/// A field: the column that holds it (empty for reserved bytes), and how it is written.
pub(super) type FieldLayout = (&'static str, Wire);

/// A record type in one version.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// Where its rows go.
    pub(super) family: Family,
    /// Its name for messages, and its schema where the file names none.
    pub(super) schema: &'static str,
    /// What follows the record header, in order and without gaps.
    pub(super) fields: &'static [&'static [FieldLayout]],
}

impl Layout {
    /// Length of a record without `ts_out`.
    pub(super) fn size(&self) -> usize {
        HEADER_LEN + self.fields.iter().copied().flatten().map(|(_, wire)| wire.width()).sum::<usize>()
    }

    /// Every field that a column holds, with its offset in the record.
    pub(super) fn columns(&self) -> impl Iterator<Item = (&'static str, usize, Wire)> + use<> {
        let mut offset = HEADER_LEN;
        self.fields
            .iter()
            .copied()
            .flatten()
            .map(move |(name, wire)| {
                let at = offset;
                offset += wire.width();
                (*name, at, *wire)
            })
            .filter(|(_, _, wire)| !matches!(wire, Wire::Reserved(_)))
    }

    /// Offset of a field that the code names.
    pub(super) fn offset(&self, name: &str) -> Option<usize> {
        self.columns().find(|(field, _, _)| *field == name).map(|(_, offset, _)| offset)
    }
}

/// The layout of a record type in a version; `None` = that version has no such type.
pub(super) fn layout(version: u8, rtype: u8) -> Option<&'static Layout> {
    Some(match (rtype, version) {
        (rtype::MBP_0, 1..=3) => &TRADE,
        (rtype::MBP_1, 1..=3) => &MBP_1,
        (rtype::MBP_10, 1..=3) => &MBP_10,
        (rtype::MBO, 1..=3) => &MBO,
        (rtype::BBO_1S, 1..=3) => &BBO_1S,
        (rtype::BBO_1M, 1..=3) => &BBO_1M,
        (rtype::CMBP_1, 1..=3) => &CMBP_1,
        (rtype::TCBBO, 1..=3) => &TCBBO,
        (rtype::CBBO_1S, 1..=3) => &CBBO_1S,
        (rtype::CBBO_1M, 1..=3) => &CBBO_1M,
        (rtype::OHLCV_1S, 1..=3) => &OHLCV_1S,
        (rtype::OHLCV_1M, 1..=3) => &OHLCV_1M,
        (rtype::OHLCV_1H, 1..=3) => &OHLCV_1H,
        (rtype::OHLCV_1D, 1..=3) => &OHLCV_1D,
        (rtype::OHLCV_EOD, 1..=3) => &OHLCV_EOD,
        (OHLCV_OLD_RTYPE, 1..=3) => &OHLCV_OLD,
        (rtype::STATUS, 1..=3) => &STATUS,
        (rtype::IMBALANCE, 1..=3) => &IMBALANCE,
        (rtype::STATISTICS, 1 | 2) => &STATISTICS_V1,
        (rtype::STATISTICS, 3) => &STATISTICS_V3,
        (rtype::INSTRUMENT_DEF, 1) => &DEFINITION_V1,
        (rtype::INSTRUMENT_DEF, 2) => &DEFINITION_V2,
        (rtype::INSTRUMENT_DEF, 3) => &DEFINITION_V3,
        (rtype::SYMBOL_MAPPING, 1) => &SYMBOL_MAPPING_V1,
        (rtype::SYMBOL_MAPPING, 2 | 3) => &SYMBOL_MAPPING_V2,
        (rtype::SYSTEM, 1) => &SYSTEM_V1,
        (rtype::SYSTEM, 2 | 3) => &SYSTEM_V2,
        (rtype::ERROR, 1) => &ERROR_V1,
        (rtype::ERROR, 2 | 3) => &ERROR_V2,
        _ => return None,
    })
}

/// `RType::OhlcvDeprecated`: bars of old files, whose interval only the file's schema tells.
pub(super) const OHLCV_OLD_RTYPE: u8 = 0x11;

/// The record types that files of this schema hold.
pub(super) fn rtypes(schema: dbn::Schema) -> &'static [u8] {
    use dbn::Schema;
    match schema {
        Schema::Mbo => &[rtype::MBO],
        Schema::Mbp1 | Schema::Tbbo => &[rtype::MBP_1],
        Schema::Mbp10 => &[rtype::MBP_10],
        Schema::Trades => &[rtype::MBP_0],
        Schema::Ohlcv1S => &[rtype::OHLCV_1S, OHLCV_OLD_RTYPE],
        Schema::Ohlcv1M => &[rtype::OHLCV_1M, OHLCV_OLD_RTYPE],
        Schema::Ohlcv1H => &[rtype::OHLCV_1H, OHLCV_OLD_RTYPE],
        Schema::Ohlcv1D => &[rtype::OHLCV_1D, OHLCV_OLD_RTYPE],
        Schema::OhlcvEod => &[rtype::OHLCV_EOD, OHLCV_OLD_RTYPE],
        Schema::Definition => &[rtype::INSTRUMENT_DEF],
        Schema::Statistics => &[rtype::STATISTICS],
        Schema::Status => &[rtype::STATUS],
        Schema::Imbalance => &[rtype::IMBALANCE],
        Schema::Cmbp1 => &[rtype::CMBP_1],
        Schema::Cbbo1S => &[rtype::CBBO_1S],
        Schema::Cbbo1M => &[rtype::CBBO_1M],
        Schema::Tcbbo => &[rtype::TCBBO],
        Schema::Bbo1S => &[rtype::BBO_1S],
        Schema::Bbo1M => &[rtype::BBO_1M],
    }
}

/// Messages of a live gateway: they stand in files of every schema.
pub(super) fn is_gateway_message(rtype: u8) -> bool {
    matches!(rtype, rtype::SYMBOL_MAPPING | rtype::SYSTEM | rtype::ERROR)
}

use Wire::{
    Char, I8Opt, I16Opt, I32, I32Opt, Price, Quantity32, Quantity64, Reserved, SType, Size, Text, Time, U8, U8Opt, U16, U16Opt, U32,
    U32Wide, U64, Volume,
};

const EVENT: &[FieldLayout] = &[
    ("price", Price),
    ("size", Size),
    ("action", Char),
    ("side", Char),
    ("flags", U8),
    ("depth", U8),
    ("ts_recv", Time),
    ("ts_in_delta", I32),
    ("sequence", U32),
];

macro_rules! level {
    ($bid_px:literal, $ask_px:literal, $bid_sz:literal, $ask_sz:literal, $bid_ct:literal, $ask_ct:literal) => {
        &[($bid_px, Price), ($ask_px, Price), ($bid_sz, Size), ($ask_sz, Size), ($bid_ct, U32), ($ask_ct, U32)]
    };
}

const LEVELS: [&[FieldLayout]; 10] = [
    level!("bid_px_00", "ask_px_00", "bid_sz_00", "ask_sz_00", "bid_ct_00", "ask_ct_00"),
    level!("bid_px_01", "ask_px_01", "bid_sz_01", "ask_sz_01", "bid_ct_01", "ask_ct_01"),
    level!("bid_px_02", "ask_px_02", "bid_sz_02", "ask_sz_02", "bid_ct_02", "ask_ct_02"),
    level!("bid_px_03", "ask_px_03", "bid_sz_03", "ask_sz_03", "bid_ct_03", "ask_ct_03"),
    level!("bid_px_04", "ask_px_04", "bid_sz_04", "ask_sz_04", "bid_ct_04", "ask_ct_04"),
    level!("bid_px_05", "ask_px_05", "bid_sz_05", "ask_sz_05", "bid_ct_05", "ask_ct_05"),
    level!("bid_px_06", "ask_px_06", "bid_sz_06", "ask_sz_06", "bid_ct_06", "ask_ct_06"),
    level!("bid_px_07", "ask_px_07", "bid_sz_07", "ask_sz_07", "bid_ct_07", "ask_ct_07"),
    level!("bid_px_08", "ask_px_08", "bid_sz_08", "ask_sz_08", "bid_ct_08", "ask_ct_08"),
    level!("bid_px_09", "ask_px_09", "bid_sz_09", "ask_sz_09", "bid_ct_09", "ask_ct_09"),
];

const CONSOLIDATED_LEVEL: &[FieldLayout] = &[
    ("bid_px_00", Price),
    ("ask_px_00", Price),
    ("bid_sz_00", Size),
    ("ask_sz_00", Size),
    ("bid_pb_00", U16),
    ("", Reserved(2)),
    ("ask_pb_00", U16),
    ("", Reserved(2)),
];

const TRADE: Layout = Layout { family: Family::Trades, schema: "trades", fields: &[EVENT] };
const MBP_1: Layout = Layout { family: Family::Quotes, schema: "mbp-1", fields: &[EVENT, LEVELS[0]] };
const MBP_10: Layout = Layout {
    family: Family::Depth,
    schema: "mbp-10",
    fields: &[EVENT, LEVELS[0], LEVELS[1], LEVELS[2], LEVELS[3], LEVELS[4], LEVELS[5], LEVELS[6], LEVELS[7], LEVELS[8], LEVELS[9]],
};

const MBO: Layout = Layout {
    family: Family::Orders,
    schema: "mbo",
    fields: &[&[
        ("order_id", U64),
        ("price", Price),
        ("size", Size),
        ("flags", U8),
        ("channel_id", U8Opt),
        ("action", Char),
        ("side", Char),
        ("ts_recv", Time),
        ("ts_in_delta", I32),
        ("sequence", U32),
    ]],
};

const BBO: &[&[FieldLayout]] = &[
    &[
        ("price", Price),
        ("size", Size),
        ("", Reserved(1)),
        ("side", Char),
        ("flags", U8),
        ("", Reserved(1)),
        ("ts_recv", Time),
        ("", Reserved(4)),
        ("sequence", U32),
    ],
    LEVELS[0],
];
const BBO_1S: Layout = Layout { family: Family::Quotes, schema: "bbo-1s", fields: BBO };
const BBO_1M: Layout = Layout { family: Family::Quotes, schema: "bbo-1m", fields: BBO };

const CONSOLIDATED: &[&[FieldLayout]] = &[
    &[
        ("price", Price),
        ("size", Size),
        ("action", Char),
        ("side", Char),
        ("flags", U8),
        ("", Reserved(1)),
        ("ts_recv", Time),
        ("ts_in_delta", I32),
        ("", Reserved(4)),
    ],
    CONSOLIDATED_LEVEL,
];
const CMBP_1: Layout = Layout { family: Family::Quotes, schema: "cmbp-1", fields: CONSOLIDATED };
const TCBBO: Layout = Layout { family: Family::Quotes, schema: "tcbbo", fields: CONSOLIDATED };

const CBBO: &[&[FieldLayout]] = &[
    &[
        ("price", Price),
        ("size", Size),
        ("", Reserved(1)),
        ("side", Char),
        ("flags", U8),
        ("", Reserved(1)),
        ("ts_recv", Time),
        ("", Reserved(8)),
    ],
    CONSOLIDATED_LEVEL,
];
const CBBO_1S: Layout = Layout { family: Family::Quotes, schema: "cbbo-1s", fields: CBBO };
const CBBO_1M: Layout = Layout { family: Family::Quotes, schema: "cbbo-1m", fields: CBBO };

const BAR: &[&[FieldLayout]] = &[&[("open", Price), ("high", Price), ("low", Price), ("close", Price), ("volume", Volume)]];
const OHLCV_1S: Layout = Layout { family: Family::Bars, schema: "ohlcv-1s", fields: BAR };
const OHLCV_1M: Layout = Layout { family: Family::Bars, schema: "ohlcv-1m", fields: BAR };
const OHLCV_1H: Layout = Layout { family: Family::Bars, schema: "ohlcv-1h", fields: BAR };
const OHLCV_1D: Layout = Layout { family: Family::Bars, schema: "ohlcv-1d", fields: BAR };
const OHLCV_EOD: Layout = Layout { family: Family::Bars, schema: "ohlcv-eod", fields: BAR };
const OHLCV_OLD: Layout = Layout { family: Family::Bars, schema: "ohlcv-deprecated", fields: BAR };

const STATUS: Layout = Layout {
    family: Family::Status,
    schema: "status",
    fields: &[&[
        ("ts_recv", Time),
        ("action", U16),
        ("reason_code", U16),
        ("trading_event", U16),
        ("is_trading", Char),
        ("is_quoting", Char),
        ("is_short_sell_restricted", Char),
        ("", Reserved(7)),
    ]],
};

const IMBALANCE: Layout = Layout {
    family: Family::Imbalances,
    schema: "imbalance",
    fields: &[&[
        ("ts_recv", Time),
        ("ref_price", Price),
        ("auction_time", Time),
        ("cont_book_clr_price", Price),
        ("auct_interest_clr_price", Price),
        ("ssr_filling_price", Price),
        ("ind_match_price", Price),
        ("upper_collar", Price),
        ("lower_collar", Price),
        ("paired_qty", Size),
        ("total_imbalance_qty", Size),
        ("market_imbalance_qty", Size),
        ("unpaired_qty", Size),
        ("auction_type", Char),
        ("side", Char),
        ("auction_status", U8),
        ("freeze_status", U8),
        ("num_extensions", U8),
        ("unpaired_side", Char),
        ("significant_imbalance", Char),
        ("", Reserved(1)),
    ]],
};

const STATISTIC_END: &[FieldLayout] =
    &[("sequence", U32), ("ts_in_delta", I32), ("stat_type", U16), ("channel_id", U16Opt), ("update_action", U8), ("stat_flags", U8)];
const STATISTICS_V1: Layout = Layout {
    family: Family::Statistics,
    schema: "statistics",
    fields: &[&[("ts_recv", Time), ("ts_ref", Time), ("price", Price), ("quantity", Quantity32)], STATISTIC_END, &[("", Reserved(6))]],
};
const STATISTICS_V3: Layout = Layout {
    family: Family::Statistics,
    schema: "statistics",
    fields: &[&[("ts_recv", Time), ("ts_ref", Time), ("price", Price), ("quantity", Quantity64)], STATISTIC_END, &[("", Reserved(18))]],
};

const DEFINITION_TIMES: &[FieldLayout] = &[
    ("ts_recv", Time),
    ("min_price_increment", Price),
    ("display_factor", Price),
    ("expiration", Time),
    ("activation", Time),
    ("high_limit_price", Price),
    ("low_limit_price", Price),
    ("max_price_variation", Price),
];
const DEFINITION_AMOUNTS: &[FieldLayout] = &[("unit_of_measure_qty", Price), ("min_price_increment_amount", Price), ("price_ratio", Price)];
const DEFINITION_LOTS: &[FieldLayout] = &[
    ("market_depth_implied", I32Opt),
    ("market_depth", I32Opt),
    ("market_segment_id", Size),
    ("max_trade_vol", Size),
    ("min_lot_size", I32Opt),
    ("min_lot_size_block", I32Opt),
    ("min_lot_size_round_lot", I32Opt),
    ("min_trade_vol", Size),
];
const DEFINITION_SIZES: &[FieldLayout] = &[("contract_multiplier", I32Opt), ("decay_quantity", I32Opt), ("original_contract_size", I32Opt)];
const DEFINITION_CHANNEL: &[FieldLayout] =
    &[("appl_id", I16Opt), ("maturity_year", U16Opt), ("decay_start_date", U16Opt), ("channel_id", U16Opt)];
const DEFINITION_CURRENCY: &[FieldLayout] = &[("dbn_currency", Text(4)), ("settl_currency", Text(4)), ("secsubtype", Text(6))];
const DEFINITION_CODES: &[FieldLayout] = &[
    ("cfi", Text(7)),
    ("security_type", Text(7)),
    ("unit_of_measure", Text(31)),
    ("dbn_underlying", Text(21)),
    ("strike_price_currency", Text(4)),
];
const DEFINITION_END: &[FieldLayout] = &[
    ("sub_fraction", U8Opt),
    ("underlying_product", U8Opt),
    ("security_update_action", Char),
    ("maturity_month", U8Opt),
    ("maturity_day", U8Opt),
    ("maturity_week", U8Opt),
    ("user_defined_instrument", Char),
    ("contract_multiplier_unit", I8Opt),
    ("flow_schedule_type", I8Opt),
    ("tick_rule", U8Opt),
];

const DEFINITION_V1: Layout = Layout {
    family: Family::Instruments,
    schema: "definition",
    fields: &[
        DEFINITION_TIMES,
        &[("trading_reference_price", Price)],
        DEFINITION_AMOUNTS,
        &[("inst_attrib_value", I32Opt), ("underlying_id", U32), ("raw_instrument_id", U32Wide)],
        DEFINITION_LOTS,
        &[("", Reserved(4))],
        DEFINITION_SIZES,
        &[("", Reserved(4)), ("trading_reference_date", U16Opt)],
        DEFINITION_CHANNEL,
        DEFINITION_CURRENCY,
        &[("raw_symbol", Text(22)), ("group", Text(21)), ("exchange", Text(5)), ("asset", Text(7))],
        DEFINITION_CODES,
        &[
            ("instrument_class", Char),
            ("", Reserved(2)),
            ("strike_price", Price),
            ("", Reserved(6)),
            ("match_algorithm", Char),
            ("md_security_trading_status", U8Opt),
            ("main_fraction", U8Opt),
            ("price_display_format", U8Opt),
            ("settl_price_type", U8Opt),
        ],
        DEFINITION_END,
        &[("", Reserved(3))],
    ],
};

const DEFINITION_V2: Layout = Layout {
    family: Family::Instruments,
    schema: "definition",
    fields: &[
        DEFINITION_TIMES,
        &[("trading_reference_price", Price)],
        DEFINITION_AMOUNTS,
        &[("strike_price", Price), ("inst_attrib_value", I32Opt), ("underlying_id", U32), ("raw_instrument_id", U32Wide)],
        DEFINITION_LOTS,
        DEFINITION_SIZES,
        &[("trading_reference_date", U16Opt)],
        DEFINITION_CHANNEL,
        DEFINITION_CURRENCY,
        &[("raw_symbol", Text(71)), ("group", Text(21)), ("exchange", Text(5)), ("asset", Text(7))],
        DEFINITION_CODES,
        &[
            ("instrument_class", Char),
            ("match_algorithm", Char),
            ("md_security_trading_status", U8Opt),
            ("main_fraction", U8Opt),
            ("price_display_format", U8Opt),
            ("settl_price_type", U8Opt),
        ],
        DEFINITION_END,
        &[("", Reserved(10))],
    ],
};

const DEFINITION_V3: Layout = Layout {
    family: Family::Instruments,
    schema: "definition",
    fields: &[
        DEFINITION_TIMES,
        DEFINITION_AMOUNTS,
        &[
            ("strike_price", Price),
            ("raw_instrument_id", U64),
            ("leg_price", Price),
            ("leg_delta", Price),
            ("inst_attrib_value", I32Opt),
            ("underlying_id", U32),
        ],
        DEFINITION_LOTS,
        DEFINITION_SIZES,
        &[
            ("leg_instrument_id", U32),
            ("leg_ratio_price_numerator", I32),
            ("leg_ratio_price_denominator", I32),
            ("leg_ratio_qty_numerator", I32),
            ("leg_ratio_qty_denominator", I32),
            ("leg_underlying_id", U32),
        ],
        DEFINITION_CHANNEL,
        &[("leg_count", U16), ("leg_index", U16)],
        DEFINITION_CURRENCY,
        &[("raw_symbol", Text(71)), ("group", Text(21)), ("exchange", Text(5)), ("asset", Text(11))],
        DEFINITION_CODES,
        &[
            ("leg_raw_symbol", Text(71)),
            ("instrument_class", Char),
            ("match_algorithm", Char),
            ("main_fraction", U8Opt),
            ("price_display_format", U8Opt),
        ],
        DEFINITION_END,
        &[("leg_instrument_class", Char), ("leg_side", Char), ("", Reserved(17))],
    ],
};

const SYMBOL_MAPPING_V1: Layout = Layout {
    family: Family::Instruments,
    schema: "symbol-mapping",
    fields: &[&[("symbol", Text(22)), ("mapped_symbol", Text(22)), ("", Reserved(4)), ("valid_from", Time), ("valid_to", Time)]],
};
const SYMBOL_MAPPING_V2: Layout = Layout {
    family: Family::Instruments,
    schema: "symbol-mapping",
    fields: &[&[
        ("stype_in", SType),
        ("symbol", Text(71)),
        ("stype_out", SType),
        ("mapped_symbol", Text(71)),
        ("valid_from", Time),
        ("valid_to", Time),
    ]],
};

// A gateway's messages go whole to `documents`, so none of their fields has a column.
const SYSTEM_V1: Layout = Layout { family: Family::Documents, schema: "system", fields: &[&[("", Reserved(64))]] };
const SYSTEM_V2: Layout = Layout { family: Family::Documents, schema: "system", fields: &[&[("", Reserved(304))]] };
const ERROR_V1: Layout = Layout { family: Family::Documents, schema: "error", fields: &[&[("", Reserved(64))]] };
const ERROR_V2: Layout = Layout { family: Family::Documents, schema: "error", fields: &[&[("", Reserved(304))]] };

#[cfg(test)]
mod tests {
    use super::*;
    use dbn::{v1, v2, v3};
    use schemas::Kind;
    use std::mem::size_of;

    fn size(version: u8, rtype: u8) -> usize {
        layout(version, rtype).unwrap().size()
    }

    #[test]
    fn every_layout_is_as_long_as_the_struct_of_the_dbn_crate() {
        for version in 1..=3 {
            assert_eq!(size(version, rtype::MBP_0), size_of::<dbn::TradeMsg>());
            assert_eq!(size(version, rtype::MBP_1), size_of::<dbn::Mbp1Msg>());
            assert_eq!(size(version, rtype::MBP_10), size_of::<dbn::Mbp10Msg>());
            assert_eq!(size(version, rtype::MBO), size_of::<dbn::MboMsg>());
            assert_eq!(size(version, rtype::BBO_1S), size_of::<dbn::BboMsg>());
            assert_eq!(size(version, rtype::CMBP_1), size_of::<dbn::Cmbp1Msg>());
            assert_eq!(size(version, rtype::CBBO_1M), size_of::<dbn::CbboMsg>());
            assert_eq!(size(version, rtype::OHLCV_1D), size_of::<dbn::OhlcvMsg>());
            assert_eq!(size(version, rtype::STATUS), size_of::<dbn::StatusMsg>());
            assert_eq!(size(version, rtype::IMBALANCE), size_of::<dbn::ImbalanceMsg>());
        }
        assert_eq!(size(1, rtype::INSTRUMENT_DEF), size_of::<v1::InstrumentDefMsg>());
        assert_eq!(size(2, rtype::INSTRUMENT_DEF), size_of::<v2::InstrumentDefMsg>());
        assert_eq!(size(3, rtype::INSTRUMENT_DEF), size_of::<v3::InstrumentDefMsg>());
        assert_eq!(size(1, rtype::STATISTICS), size_of::<v1::StatMsg>());
        assert_eq!(size(2, rtype::STATISTICS), size_of::<v2::StatMsg>());
        assert_eq!(size(3, rtype::STATISTICS), size_of::<v3::StatMsg>());
        assert_eq!(size(1, rtype::SYMBOL_MAPPING), size_of::<v1::SymbolMappingMsg>());
        assert_eq!(size(3, rtype::SYMBOL_MAPPING), size_of::<v3::SymbolMappingMsg>());
        assert_eq!(size(1, rtype::SYSTEM), size_of::<v1::SystemMsg>());
        assert_eq!(size(2, rtype::SYSTEM), size_of::<v2::SystemMsg>());
        assert_eq!(size(1, rtype::ERROR), size_of::<v1::ErrorMsg>());
        assert_eq!(size(3, rtype::ERROR), size_of::<v3::ErrorMsg>());
    }

    #[test]
    fn every_offset_is_the_one_of_the_struct_of_the_dbn_crate() {
        macro_rules! same {
            ($version:literal, $rtype:expr, $record:ty, $($column:literal = $($field:tt).+),+ $(,)?) => {
                $(assert_eq!(
                    layout($version, $rtype).unwrap().offset($column),
                    Some(std::mem::offset_of!($record, $($field).+)),
                    "{} of {} version {}", $column, stringify!($record), $version
                );)+
            };
        }
        same!(
            3,
            rtype::MBP_0,
            dbn::TradeMsg,
            "price" = price,
            "size" = size,
            "action" = action,
            "side" = side,
            "flags" = flags,
            "depth" = depth,
            "ts_recv" = ts_recv,
            "ts_in_delta" = ts_in_delta,
            "sequence" = sequence
        );
        same!(
            3,
            rtype::MBO,
            dbn::MboMsg,
            "order_id" = order_id,
            "price" = price,
            "size" = size,
            "flags" = flags,
            "channel_id" = channel_id,
            "action" = action,
            "side" = side,
            "ts_recv" = ts_recv,
            "ts_in_delta" = ts_in_delta,
            "sequence" = sequence
        );
        same!(
            3,
            rtype::BBO_1M,
            dbn::BboMsg,
            "price" = price,
            "size" = size,
            "side" = side,
            "flags" = flags,
            "ts_recv" = ts_recv,
            "sequence" = sequence,
            "bid_px_00" = levels
        );
        same!(3, rtype::MBP_10, dbn::Mbp10Msg, "bid_px_00" = levels);
        same!(
            3,
            rtype::TCBBO,
            dbn::Cmbp1Msg,
            "action" = action,
            "side" = side,
            "flags" = flags,
            "ts_recv" = ts_recv,
            "ts_in_delta" = ts_in_delta,
            "bid_px_00" = levels
        );
        same!(3, rtype::CBBO_1S, dbn::CbboMsg, "side" = side, "flags" = flags, "ts_recv" = ts_recv, "bid_px_00" = levels);
        same!(3, rtype::OHLCV_1S, dbn::OhlcvMsg, "open" = open, "high" = high, "low" = low, "close" = close, "volume" = volume);
        same!(
            3,
            rtype::STATUS,
            dbn::StatusMsg,
            "ts_recv" = ts_recv,
            "action" = action,
            "reason_code" = reason,
            "trading_event" = trading_event,
            "is_trading" = is_trading,
            "is_quoting" = is_quoting,
            "is_short_sell_restricted" = is_short_sell_restricted
        );
        same!(
            3,
            rtype::IMBALANCE,
            dbn::ImbalanceMsg,
            "ref_price" = ref_price,
            "auction_time" = auction_time,
            "lower_collar" = lower_collar,
            "paired_qty" = paired_qty,
            "unpaired_qty" = unpaired_qty,
            "auction_type" = auction_type,
            "side" = side,
            "num_extensions" = num_extensions,
            "significant_imbalance" = significant_imbalance
        );
        same!(1, rtype::STATISTICS, v1::StatMsg, "quantity" = quantity, "sequence" = sequence, "stat_flags" = stat_flags);
        same!(
            3,
            rtype::STATISTICS,
            v3::StatMsg,
            "ts_ref" = ts_ref,
            "quantity" = quantity,
            "sequence" = sequence,
            "ts_in_delta" = ts_in_delta,
            "stat_type" = stat_type,
            "channel_id" = channel_id,
            "update_action" = update_action,
            "stat_flags" = stat_flags
        );
        same!(
            1,
            rtype::SYMBOL_MAPPING,
            v1::SymbolMappingMsg,
            "symbol" = stype_in_symbol,
            "mapped_symbol" = stype_out_symbol,
            "valid_from" = start_ts,
            "valid_to" = end_ts
        );
        same!(
            2,
            rtype::SYMBOL_MAPPING,
            v2::SymbolMappingMsg,
            "stype_in" = stype_in,
            "symbol" = stype_in_symbol,
            "stype_out" = stype_out,
            "mapped_symbol" = stype_out_symbol,
            "valid_from" = start_ts,
            "valid_to" = end_ts
        );
        macro_rules! definition {
            ($version:literal, $record:ty) => {
                same!(
                    $version,
                    rtype::INSTRUMENT_DEF,
                    $record,
                    "ts_recv" = ts_recv,
                    "min_price_increment" = min_price_increment,
                    "display_factor" = display_factor,
                    "expiration" = expiration,
                    "activation" = activation,
                    "high_limit_price" = high_limit_price,
                    "low_limit_price" = low_limit_price,
                    "max_price_variation" = max_price_variation,
                    "unit_of_measure_qty" = unit_of_measure_qty,
                    "min_price_increment_amount" = min_price_increment_amount,
                    "price_ratio" = price_ratio,
                    "strike_price" = strike_price,
                    "raw_instrument_id" = raw_instrument_id,
                    "inst_attrib_value" = inst_attrib_value,
                    "underlying_id" = underlying_id,
                    "market_depth_implied" = market_depth_implied,
                    "market_depth" = market_depth,
                    "market_segment_id" = market_segment_id,
                    "max_trade_vol" = max_trade_vol,
                    "min_lot_size" = min_lot_size,
                    "min_lot_size_block" = min_lot_size_block,
                    "min_lot_size_round_lot" = min_lot_size_round_lot,
                    "min_trade_vol" = min_trade_vol,
                    "contract_multiplier" = contract_multiplier,
                    "decay_quantity" = decay_quantity,
                    "original_contract_size" = original_contract_size,
                    "appl_id" = appl_id,
                    "maturity_year" = maturity_year,
                    "decay_start_date" = decay_start_date,
                    "channel_id" = channel_id,
                    "dbn_currency" = currency,
                    "settl_currency" = settl_currency,
                    "secsubtype" = secsubtype,
                    "raw_symbol" = raw_symbol,
                    "group" = group,
                    "exchange" = exchange,
                    "asset" = asset,
                    "cfi" = cfi,
                    "security_type" = security_type,
                    "unit_of_measure" = unit_of_measure,
                    "dbn_underlying" = underlying,
                    "strike_price_currency" = strike_price_currency,
                    "instrument_class" = instrument_class,
                    "match_algorithm" = match_algorithm,
                    "main_fraction" = main_fraction,
                    "price_display_format" = price_display_format,
                    "sub_fraction" = sub_fraction,
                    "underlying_product" = underlying_product,
                    "security_update_action" = security_update_action,
                    "maturity_month" = maturity_month,
                    "maturity_day" = maturity_day,
                    "maturity_week" = maturity_week,
                    "user_defined_instrument" = user_defined_instrument,
                    "contract_multiplier_unit" = contract_multiplier_unit,
                    "flow_schedule_type" = flow_schedule_type,
                    "tick_rule" = tick_rule
                );
            };
        }
        definition!(1, v1::InstrumentDefMsg);
        definition!(2, v2::InstrumentDefMsg);
        definition!(3, v3::InstrumentDefMsg);
        macro_rules! old_definition {
            ($version:literal, $record:ty) => {
                same!(
                    $version,
                    rtype::INSTRUMENT_DEF,
                    $record,
                    "trading_reference_price" = trading_reference_price,
                    "trading_reference_date" = trading_reference_date,
                    "md_security_trading_status" = md_security_trading_status,
                    "settl_price_type" = settl_price_type
                );
            };
        }
        old_definition!(1, v1::InstrumentDefMsg);
        old_definition!(2, v2::InstrumentDefMsg);
        same!(
            3,
            rtype::INSTRUMENT_DEF,
            v3::InstrumentDefMsg,
            "leg_price" = leg_price,
            "leg_delta" = leg_delta,
            "leg_instrument_id" = leg_instrument_id,
            "leg_ratio_price_numerator" = leg_ratio_price_numerator,
            "leg_ratio_price_denominator" = leg_ratio_price_denominator,
            "leg_ratio_qty_numerator" = leg_ratio_qty_numerator,
            "leg_ratio_qty_denominator" = leg_ratio_qty_denominator,
            "leg_underlying_id" = leg_underlying_id,
            "leg_count" = leg_count,
            "leg_index" = leg_index,
            "leg_raw_symbol" = leg_raw_symbol,
            "leg_instrument_class" = leg_instrument_class,
            "leg_side" = leg_side
        );
    }

    #[test]
    fn every_field_has_a_column_of_the_right_kind() {
        for (version, rtype) in (1..=3).flat_map(|version| (0..=255).map(move |rtype| (version, rtype))) {
            let Some(layout) = layout(version, rtype) else { continue };
            let topic = layout.family.topic();
            for (name, _, wire) in layout.columns() {
                let kind = topic.fields[topic.column(name)].kind;
                let fits = match wire {
                    Wire::Price => kind == Kind::Price,
                    Wire::Time => kind == Kind::Time,
                    Wire::U64 | Wire::U32Wide => kind == Kind::U64,
                    Wire::Volume | Wire::Quantity64 | Wire::Quantity32 => kind == Kind::Amount,
                    Wire::Size | Wire::U32 => kind == Kind::I64,
                    Wire::Char | Wire::Text(_) | Wire::SType => kind == Kind::Text,
                    Wire::Reserved(_) => false,
                    Wire::I32 | Wire::I32Opt | Wire::U16 | Wire::U16Opt | Wire::I16Opt | Wire::U8 | Wire::U8Opt | Wire::I8Opt => {
                        kind == Kind::I32
                    }
                };
                assert!(fits, "{name} of {} version {version} is {wire:?}, its column {kind:?}", layout.schema);
            }
        }
    }
}
