//! The columns of every record family, in order: the common ones, then the family's own. Records are immutable, so a column is added
//! here once and never changes its meaning.

use crate::field::Kind::{Amount, Bool, Bytes, Date, Factor, I32, I64, Price, Text, Time, Tokens, U64};
use crate::field::{Field, opt, req};

const PER_UNIT: &str = "currency per price_unit";
const LOTS: &str = "lots or contracts, as the venue counts";

/// The columns that every family begins with.
pub(crate) fn common() -> Vec<Field> {
    vec![
        req("dataset", Text, "", "a venue's or publisher's feed, at most 15 characters, for example XSGE.CTP"),
        opt("symbol", Text, "", "the venue's raw symbol as of ts_event; NULL when none is known"),
        opt("publisher_id", I32, "", "Databento's publisher number; NULL outside DBN"),
        opt("instrument_id", I64, "", "the venue's or vendor's instrument number; NULL where the source has none"),
        opt("schema", Text, "", "the source's record type: mbp-1, bbo-1s, ohlcv-1m, ctp; tells sampled data from full data"),
        opt(
            "ts_event",
            Time,
            "ns UTC",
            "clock 1: when it happened, by the venue or publisher; 0 stays 0, NULL only for the source's own sentinel",
        ),
        opt("ts_recv", Time, "ns UTC", "clock 3: when the capture received it; NULL where a file does not say"),
        opt("ts_publish", Time, "ns UTC", "clock 2: when the publisher made it public, as the source states it; NULL when unknown"),
        opt(
            "date",
            Date,
            "",
            "UTC date of the index time: of ts_recv where the source carries it, else of ts_event; partition column of tick tables",
        ),
        opt("trade_date", Date, "", "the venue's trading day as the source states it; NULL where it does not"),
        opt("sequence", I64, "", "the venue's or feed's own sequence number; NULL where the source has none"),
        req("change", Text, "", "new, correct, cancel or restate").one_of(&["new", "correct", "cancel", "restate"]),
        req("revision", I32, "", "counts within the family's business key, from 0; the highest known at a time stands"),
        opt("supersedes", I32, "", "the revision that this record replaces; NULL for a first one"),
        opt("reason", Text, "", "why a record was corrected, cancelled, restated, quarantined or a gap declared; NULL otherwise"),
        req("source_id", Bytes, "", "first 16 bytes of the SHA-256 that names the source (table sources)"),
        req("source_record", I64, "", "number of the record in its source, from 0"),
        req("source_byte", I64, "bytes", "where the record begins in the unpacked source"),
        opt("licence", Text, "", "right to redistribute this record; NULL = the dataset's own, from sources; unset there too = none"),
    ]
}

/// What the store adds to every row: where it stood in the log.
pub(crate) fn log_columns() -> Vec<Field> {
    vec![
        opt("_partition", I32, "", "partition of the topic; NULL where the store wrote the row itself"),
        opt("_offset", I64, "", "offset in the partition; NULL where the store wrote the row itself"),
        opt(
            "_log_ts",
            Time,
            "ns UTC",
            "clock 4: the broker's append time, milliseconds kept as nanoseconds; of a replayed record that of its origin",
        ),
        opt("_schema", I32, "", "id of the writer's Avro schema (table schemas)"),
        opt(
            "_key",
            Bytes,
            "",
            "the record's key (a byte 0 for the null key, else a byte 1 and the key), where it is not the row's own; NULL otherwise",
        ),
        opt(
            "_headers",
            Bytes,
            "",
            "the record's headers, where it has any: names and values in turn, each after its length in 4 bytes (ffffffff: null)",
        ),
        opt("_ts_type", I32, "", "timestamp type (0 create, -1 none), where it is not log-append; NULL otherwise"),
        opt("_raw", Bytes, "", "the record's value, where re-encoding the row gives other bytes; NULL otherwise"),
    ]
}

/// Currency and unit of the row's prices, as the source states them; SQL fills what is NULL from `instruments`.
fn priced() -> Vec<Field> {
    vec![
        opt("currency", Text, "", "ISO 4217 code of the row's prices as the source states it; SQL fills it from instruments"),
        opt("price_unit", Text, "", "what one price buys: gpu_hour, mtok (one million tokens), …; SQL fills it from instruments"),
    ]
}

fn dbn_header() -> Vec<Field> {
    vec![
        opt("rtype", I32, "", "DBN record type number; NULL outside DBN"),
        opt("ts_out", Time, "ns UTC", "when Databento's gateway sent the record, in files with ts_out; NULL otherwise"),
    ]
}

fn event() -> Vec<Field> {
    vec![
        opt("price", Price, PER_UNIT, "price of the event; NULL where the source says undefined"),
        opt("size", I64, LOTS, "quantity of the event; NULL where the source says undefined"),
        opt("action", Text, "", "DBN's action letter: A add, C cancel, M modify, R clear, T trade, F fill, N none"),
        opt("side", Text, "", "DBN's side letter: A ask or sell aggressor, B bid or buy aggressor, N none"),
        opt("flags", I32, "", "DBN's flag bits"),
    ]
}

fn in_delta() -> Field {
    opt("ts_in_delta", I32, "ns", "ts_recv minus the venue's sending time")
}

fn depth() -> Field {
    opt("depth", I32, "", "book level that the event changed")
}

fn numbered(prefix: &str, level: usize, kind: crate::field::Kind, unit: &'static str, doc: &str) -> Field {
    Field {
        name: format!("{prefix}_{level:02}").into(),
        kind,
        required: false,
        unit,
        doc: format!("{doc}, level {level}; NULL when there is none").into(),
        words: &[],
    }
}

fn levels(n: usize) -> Vec<Field> {
    (0..n)
        .flat_map(|level| {
            [
                numbered("bid_px", level, Price, PER_UNIT, "bid price"),
                numbered("ask_px", level, Price, PER_UNIT, "ask price"),
                numbered("bid_sz", level, I64, LOTS, "bid size"),
                numbered("ask_sz", level, I64, LOTS, "ask size"),
                numbered("bid_ct", level, I64, "orders", "number of bid orders"),
                numbered("ask_ct", level, I64, "orders", "number of ask orders"),
            ]
        })
        .collect()
}

fn exchange_text() -> Vec<Field> {
    vec![
        opt("exchange", Text, "", "venue code as the source writes it, where a feed mixes venues; NULL otherwise"),
        opt("conditions", Text, "", "the source's sale or quote condition codes; NULL where it has none"),
        opt("suspicious", Bool, "", "the source's own mark of a doubtful record; NULL where it has none"),
    ]
}

pub(crate) fn trades() -> Vec<Field> {
    [
        event(),
        vec![depth(), in_delta(), opt("trade_id", Text, "", "the venue's own trade number; NULL where the source has none")],
        exchange_text(),
        priced(),
        dbn_header(),
    ]
    .concat()
}

pub(crate) fn quotes() -> Vec<Field> {
    [
        event(),
        vec![depth(), in_delta()],
        levels(1),
        vec![
            opt("bid_pb_00", I32, "", "publisher of the consolidated best bid (cmbp-1, cbbo); NULL otherwise"),
            opt("ask_pb_00", I32, "", "publisher of the consolidated best ask (cmbp-1, cbbo); NULL otherwise"),
        ],
        exchange_text(),
        priced(),
        dbn_header(),
    ]
    .concat()
}

pub(crate) fn depth_family() -> Vec<Field> {
    [event(), vec![depth(), in_delta()], levels(10), priced(), dbn_header()].concat()
}

pub(crate) fn orders() -> Vec<Field> {
    [
        event(),
        vec![opt("order_id", U64, "", "the venue's order number"), opt("channel_id", I32, "", "the venue's channel"), in_delta()],
        priced(),
        dbn_header(),
    ]
    .concat()
}

pub(crate) fn snapshots() -> Vec<Field> {
    let price = |name, doc| opt(name, Price, PER_UNIT, doc);
    let mut fields = vec![
        price("last_price", "last traded price at the snapshot"),
        opt("volume", Amount, LOTS, "cumulative volume of the trading day"),
        opt(
            "turnover",
            Amount,
            "currency",
            "cumulative turnover of the trading day, with the contract multiplier where the venue applies it",
        ),
        opt("open_interest", Amount, LOTS, "open interest at the snapshot"),
        price("open", "first price of the trading day"),
        price("high", "highest price of the trading day"),
        price("low", "lowest price of the trading day"),
        price("close", "closing price; NULL until the venue states it"),
        price("settlement_price", "settlement price; NULL until the venue states it"),
        price("prev_settlement_price", "settlement price of the previous trading day"),
        price("prev_close", "closing price of the previous trading day"),
        opt("prev_open_interest", Amount, LOTS, "open interest of the previous trading day"),
        price("upper_limit", "upper price limit of the trading day"),
        price("lower_limit", "lower price limit of the trading day"),
        price("average_price", "the venue's average price, with the contract multiplier where the venue applies it"),
        opt("prev_delta", Amount, "", "delta of the previous trading day (options); NULL for futures"),
        opt("curr_delta", Amount, "", "delta at the snapshot (options); NULL for futures"),
        opt("action_day", Date, "", "the calendar day in the venue's zone that the source states (CTP ActionDay)"),
        opt("exchange_id", Text, "", "the venue's code as the source writes it; empty text stays empty"),
        opt("exchange_inst_id", Text, "", "the venue's own instrument code; empty text stays empty"),
    ];
    for level in 0..5 {
        fields.extend([
            numbered("bid_px", level, Price, PER_UNIT, "bid price"),
            numbered("bid_sz", level, I64, LOTS, "bid size"),
            numbered("ask_px", level, Price, PER_UNIT, "ask price"),
            numbered("ask_sz", level, I64, LOTS, "ask size"),
        ]);
    }
    [fields, priced()].concat()
}

pub(crate) fn bars() -> Vec<Field> {
    let price = |name, doc| opt(name, Price, PER_UNIT, doc);
    [
        vec![
            opt("ts_end", Time, "ns UTC", "end of the bar as the source states it; ts_event is its start"),
            price("open", "first price"),
            price("high", "highest price"),
            price("low", "lowest price"),
            price("close", "last price"),
            opt("volume", Amount, LOTS, "volume of the bar"),
            opt("turnover", Amount, "currency", "turnover of the bar"),
            opt("open_interest", Amount, LOTS, "open interest at the end of the bar"),
            price("average_price", "average price of the bar as the source states it"),
            opt("begin_volume", Amount, LOTS, "cumulative volume of the trading day at the start of the bar"),
            opt("begin_turnover", Amount, "currency", "cumulative turnover of the trading day at the start of the bar"),
            opt("begin_open_interest", Amount, LOTS, "open interest at the start of the bar"),
            opt("end_volume", Amount, LOTS, "cumulative volume of the trading day at the end of the bar"),
            opt("end_turnover", Amount, "currency", "cumulative turnover of the trading day at the end of the bar"),
            price("market_average_price", "average price of the trading day so far as the source states it"),
            opt("bar_index", I64, "", "the source's own number of the bar in its day"),
            opt("price_factor", Factor, "", "the source's adjustment factor of prices; NULL where it has none"),
            price("bid_open", "first bid"),
            price("bid_high", "highest bid"),
            price("bid_low", "lowest bid"),
            price("bid_close", "last bid"),
            opt("bid_size", Amount, LOTS, "size of the last bid"),
            price("ask_open", "first ask"),
            price("ask_high", "highest ask"),
            price("ask_low", "lowest ask"),
            price("ask_close", "last ask"),
            opt("ask_size", Amount, LOTS, "size of the last ask"),
            opt("kind", Text, "", "trade, quote or openinterest, where a source has bars of several kinds; NULL otherwise"),
        ],
        priced(),
        dbn_header(),
    ]
    .concat()
}

pub(crate) fn statistics() -> Vec<Field> {
    [
        vec![
            opt(
                "stat_type",
                I32,
                "",
                "DBN's number of the statistic (1 opening price, 3 settlement price, 6 cleared volume, 9 open interest, …)",
            ),
            opt("ts_ref", Time, "ns UTC", "the time that the statistic is about; NULL where the source says undefined"),
            opt("price", Price, PER_UNIT, "the statistic, where it is a price"),
            opt("quantity", Amount, LOTS, "the statistic, where it is a quantity"),
            opt("channel_id", I32, "", "the venue's channel"),
            opt("update_action", I32, "", "DBN: 1 added, 2 deleted"),
            opt("stat_flags", I32, "", "DBN's flag bits of the statistic"),
            in_delta(),
            opt("dbn_version", I32, "", "DBN version of the record's layout; NULL outside DBN"),
        ],
        priced(),
        dbn_header(),
    ]
    .concat()
}

pub(crate) fn status() -> Vec<Field> {
    [
        vec![
            opt("action", I32, "", "DBN's number of the status change"),
            opt("reason_code", I32, "", "DBN's reason number of the status change (DBN field reason)"),
            opt("trading_event", I32, "", "DBN's number of the trading event"),
            opt("is_trading", Text, "", "Y, N or ~ (not stated)"),
            opt("is_quoting", Text, "", "Y, N or ~ (not stated)"),
            opt("is_short_sell_restricted", Text, "", "Y, N or ~ (not stated)"),
        ],
        dbn_header(),
    ]
    .concat()
}

pub(crate) fn imbalances() -> Vec<Field> {
    let price = |name, doc| opt(name, Price, PER_UNIT, doc);
    let size = |name, doc| opt(name, I64, "shares or lots", doc);
    [
        vec![
            price("ref_price", "price at which the imbalance shares are calculated"),
            opt("auction_time", Time, "ns UTC", "time of the auction; NULL where undefined"),
            price("cont_book_clr_price", "clearing price with the continuous book"),
            price("auct_interest_clr_price", "clearing price of auction interest alone"),
            price("ssr_filling_price", "filling price under short-sale restriction"),
            price("ind_match_price", "indicative match price"),
            price("upper_collar", "upper auction collar"),
            price("lower_collar", "lower auction collar"),
            size("paired_qty", "paired quantity"),
            size("total_imbalance_qty", "total imbalance"),
            size("market_imbalance_qty", "market-order imbalance"),
            size("unpaired_qty", "unpaired quantity"),
            opt("auction_type", Text, "", "the venue's auction letter"),
            opt("side", Text, "", "side of the imbalance: A, B or N"),
            opt("auction_status", I32, "", "the venue's auction status"),
            opt("freeze_status", I32, "", "the venue's freeze status"),
            opt("num_extensions", I32, "", "number of extensions"),
            opt("unpaired_side", Text, "", "side of the unpaired quantity"),
            opt("significant_imbalance", Text, "", "the venue's significance letter"),
        ],
        priced(),
        dbn_header(),
    ]
    .concat()
}

pub(crate) fn instruments() -> Vec<Field> {
    let price = |name, doc| opt(name, Price, PER_UNIT, doc);
    let int = |name, doc| opt(name, I32, "", doc);
    let long = |name, doc| opt(name, I64, "", doc);
    let text = |name, doc| opt(name, Text, "", doc);
    [
        vec![
            text("kind", "future, option, spread, index, series, … or mapping (a dated symbol mapping)"),
            text("mic", "ISO 10383 code of the venue; NULL where the source has none"),
            text("root", "product code without the expiry"),
            opt("expiry", Time, "ns UTC", "when the contract ends; NULL where it does not"),
            text("unit", "what one contract is a quantity of: gpu_hour, token, mtok, t, …"),
            opt("unit_qty", Amount, "unit", "how many units one contract is"),
            opt("multiplier", Amount, "", "price × multiplier = value of one contract in currency"),
            text("currency", "ISO 4217 code of the contract's prices"),
            text("price_unit", "what one price buys: gpu_hour, mtok, …"),
            price("tick_size", "smallest price step"),
            text("calendar", "name of the trading calendar"),
            text("underlying", "what the contract is on"),
            opt("valid_from", Time, "ns UTC", "from when the definition holds; NULL = from the beginning"),
            opt("valid_to", Time, "ns UTC", "until when (exclusive) the definition holds; NULL = until replaced"),
            text("mapped_symbol", "kind = mapping: the symbol that `symbol` stands for in the interval"),
            text("stype_in", "kind = mapping: symbology type of `symbol`"),
            text("stype_out", "kind = mapping: symbology type of mapped_symbol"),
            opt("expiry_month", Text, "", "contract month as YYYY-MM where the source states one"),
        ],
        // DBN's definition, every version; a column that a version lacks is NULL there.
        vec![
            opt("dbn_version", I32, "", "DBN version of the record's layout; NULL outside DBN"),
            price("min_price_increment", "DBN: smallest price step"),
            price("display_factor", "DBN: display price × factor"),
            opt("expiration", Time, "ns UTC", "DBN: last eligible trade time; NULL where undefined"),
            opt("activation", Time, "ns UTC", "DBN: time of activation; NULL where undefined"),
            price("high_limit_price", "DBN: high limit of the day"),
            price("low_limit_price", "DBN: low limit of the day"),
            price("max_price_variation", "DBN: differential for price bands"),
            price("trading_reference_price", "DBN 1, 2: trading session reference price"),
            price("unit_of_measure_qty", "DBN: contract size in unit_of_measure"),
            price("min_price_increment_amount", "DBN: value of the smallest price step"),
            price("price_ratio", "DBN: price ratio of a spread"),
            price("strike_price", "DBN: strike"),
            opt("raw_instrument_id", U64, "", "DBN: the venue's own instrument number"),
            price("leg_price", "DBN 3: leg price"),
            price("leg_delta", "DBN 3: leg delta"),
            int("inst_attrib_value", "DBN: instrument attribute bits; NULL where undefined"),
            long("underlying_id", "DBN: instrument number of the underlying"),
            int("market_depth_implied", "DBN: implied book depth"),
            int("market_depth", "DBN: book depth"),
            long("market_segment_id", "DBN: market segment"),
            long("max_trade_vol", "DBN: largest order"),
            int("min_lot_size", "DBN: smallest lot"),
            int("min_lot_size_block", "DBN: smallest block"),
            int("min_lot_size_round_lot", "DBN: smallest round lot"),
            long("min_trade_vol", "DBN: smallest order"),
            int("contract_multiplier", "DBN: number of deliverables"),
            int("decay_quantity", "DBN: daily decay"),
            int("original_contract_size", "DBN: original fixed size"),
            long("leg_instrument_id", "DBN 3: instrument number of the leg"),
            int("leg_ratio_price_numerator", "DBN 3: leg price ratio, numerator"),
            int("leg_ratio_price_denominator", "DBN 3: leg price ratio, denominator"),
            int("leg_ratio_qty_numerator", "DBN 3: leg quantity ratio, numerator"),
            int("leg_ratio_qty_denominator", "DBN 3: leg quantity ratio, denominator"),
            long("leg_underlying_id", "DBN 3: underlying of the leg"),
            int("trading_reference_date", "DBN 1, 2: day number of the reference price"),
            int("appl_id", "DBN: channel of the venue's application"),
            int("maturity_year", "DBN: maturity year"),
            int("decay_start_date", "DBN: day number on which decay begins"),
            int("channel_id", "DBN: channel"),
            int("leg_count", "DBN 3: number of legs"),
            int("leg_index", "DBN 3: number of the leg"),
            text("settl_currency", "DBN: currency of settlement"),
            text("secsubtype", "DBN: strategy type"),
            text("raw_symbol", "DBN: the venue's raw symbol"),
            text("group", "DBN: security group"),
            text("exchange", "DBN: venue code"),
            text("asset", "DBN: product code"),
            text("cfi", "DBN: ISO 10962 code"),
            text("security_type", "DBN: security type"),
            text("unit_of_measure", "DBN: unit of the contract"),
            text("dbn_underlying", "DBN field underlying, as it came"),
            text("dbn_currency", "DBN field currency, as it came"),
            text("strike_price_currency", "DBN: currency of the strike"),
            text("leg_raw_symbol", "DBN 3: raw symbol of the leg"),
            text("instrument_class", "DBN: class letter (F future, C call, P put, S spread, …)"),
            text("match_algorithm", "DBN: matching letter"),
            int("md_security_trading_status", "DBN 1, 2: trading status"),
            int("main_fraction", "DBN: price denominator"),
            int("price_display_format", "DBN: digits to the right"),
            int("settl_price_type", "DBN 1, 2: settlement price type bits"),
            int("sub_fraction", "DBN: sub-tick denominator"),
            int("underlying_product", "DBN: product code of the underlying"),
            text("security_update_action", "DBN: A added, M modified, D deleted"),
            int("maturity_month", "DBN: maturity month"),
            int("maturity_day", "DBN: maturity day"),
            int("maturity_week", "DBN: maturity week"),
            text("user_defined_instrument", "DBN: Y or N"),
            int("contract_multiplier_unit", "DBN: unit type of the multiplier"),
            int("flow_schedule_type", "DBN: flow schedule"),
            int("tick_rule", "DBN: tick rule"),
            text("leg_instrument_class", "DBN 3: class letter of the leg"),
            text("leg_side", "DBN 3: side of the leg"),
        ],
        dbn_header(),
    ]
    .concat()
}

pub(crate) fn token_usage() -> Vec<Field> {
    let text = |name, doc| opt(name, Text, "", doc);
    vec![
        text("series_id", "the series as its publisher or tokentape's mapping names it"),
        text("publisher", "who published the figure"),
        text("jurisdiction", "ISO 3166 code of the area that the figure covers; NULL = not stated"),
        text("provider", "whose service was used; NULL = all, or not stated"),
        text("model", "model; NULL = all, or not stated"),
        text("direction", "input (without cached), cached_input, cache_write, output, or total").one_of(&[
            "input",
            "cached_input",
            "cache_write",
            "output",
            "total",
        ]),
        text("modality", "text, audio, image, …; NULL = all, or not stated"),
        text("stat", "daily_average, period_total or cumulative").one_of(&["daily_average", "period_total", "cumulative"]),
        opt("period_start", Time, "ns UTC", "clock 5: start of the period described (inclusive)"),
        opt("period_end", Time, "ns UTC", "clock 5: end of the period described (exclusive)"),
        opt("tokens", Tokens, "tokens", "the figure; per day where stat is daily_average"),
        text("qualifier", "eq, lower_bound (more than), upper_bound or about, as published").one_of(&[
            "eq",
            "lower_bound",
            "upper_bound",
            "about",
        ]),
        opt("requests", Tokens, "requests", "number of model requests; on the row total or output only"),
        text("project_id", "grouping of a provider's usage report; NULL = not grouped"),
        text("user_id", "grouping of a provider's usage report; NULL = not grouped"),
        text("api_key_id", "grouping of a provider's usage report; NULL = not grouped"),
        opt("batch", Bool, "", "grouping of a provider's usage report: batch jobs; NULL = not grouped"),
        text("service_tier", "grouping of a provider's usage report; NULL = not grouped"),
        text("context_window", "grouping of a provider's usage report; NULL = not grouped"),
        opt("input_reported", Tokens, "tokens", "the source's own input figure where it includes cached tokens; on the input row only"),
        text("uri", "where the figure was published"),
        text("note", "the publisher's or the recorder's remark, as it came"),
        opt("doc_sha256", Bytes, "", "SHA-256 of the page or file it was read from (table documents)"),
    ]
}

pub(crate) fn requests() -> Vec<Field> {
    vec![
        opt("model", Text, "", "model; NULL = not stated"),
        opt("input_tokens", Tokens, "tokens", "tokens of the prompt"),
        opt("output_tokens", Tokens, "tokens", "tokens generated"),
        opt("ts_offset_ns", I64, "ns", "time since the trace began, where it has no clock; NULL otherwise"),
        opt("hash_ids", Text, "", "the trace's prefix block ids, as JSON text; NULL where it has none"),
    ]
}

pub(crate) fn price_list() -> Vec<Field> {
    let text = |name, doc| opt(name, Text, "", doc);
    [
        vec![
            text("provider", "who sells"),
            text("model", "model as the list names it"),
            text("mode", "chat, completion, embedding, image_generation, … as the list says"),
            text("direction", "input, cached_input, cache_write, output, or the list's own word"),
            text("modality", "text, audio, image, …; NULL = not stated"),
            text("tier", "standard, batch, priority, …; NULL = not stated"),
            opt("price", Price, PER_UNIT, "list price; NULL on a cancel, and on the one row of a model that is listed without a price"),
            opt("effective_after", Time, "ns UTC", "the last observation that still had the earlier price (exclusive); NULL = none"),
            opt("effective_by", Time, "ns UTC", "the first observation that had this price: it took effect by then"),
            opt("context_min", I64, "tokens", "context bracket, from (exclusive); NULL = none"),
            opt("context_max", I64, "tokens", "context bracket, to (inclusive); NULL = none"),
            text("listed", "the price as the list writes it, before scaling"),
            opt("doc_sha256", Bytes, "", "SHA-256 of the list it was read from (table documents)"),
        ],
        priced(),
    ]
    .concat()
}

pub(crate) fn index_values() -> Vec<Field> {
    let text = |name, doc| opt(name, Text, "", doc);
    vec![
        text("index_id", "the index, as its publisher names it"),
        opt("value", Amount, "unit", "level or price; NULL when withheld"),
        text("unit", "unit of value: USD/gpu_hour, CNY/mtok, points, …"),
        text("currency", "ISO 4217 code, where the value is a price; NULL otherwise"),
        text("price_unit", "what one price buys, where the value is a price; NULL otherwise"),
        text("status", "preliminary, final, carried or withheld").one_of(&["preliminary", "final", "carried", "withheld"]),
        text("fixing_id", "names the fixing; index_inputs refer to it"),
        text("methodology", "version of the methodology"),
        opt("base_value", Amount, "unit", "base level; NULL where the index has none"),
        opt("base_date", Date, "", "day of the base level; NULL where the index has none"),
        text("region", "region covered; NULL = not stated"),
        text("hardware", "hardware class covered; NULL = not stated"),
    ]
}

pub(crate) fn index_inputs() -> Vec<Field> {
    let text = |name, doc| opt(name, Text, "", doc);
    [
        vec![
            text("fixing_id", "the fixing that the observation was offered to"),
            text("index_id", "the index of the fixing"),
            text("observation_id", "the publisher's name of the observation; NULL = none"),
            text("evidence", "trade, firm_quote, list_price, survey or model").one_of(&[
                "trade",
                "firm_quote",
                "list_price",
                "survey",
                "model",
            ]),
            text("provider", "whose observation it is; NULL = not disclosed"),
            opt("price", Price, PER_UNIT, "observed price"),
            opt("volume", Amount, "as the publisher counts", "observed volume"),
            opt("weight", Factor, "", "weight applied; NULL = not disclosed"),
            opt("included", Bool, "", "whether the fixing used it"),
            text("exclusion_reason", "why it was not used; NULL when it was"),
            text("hardware", "hardware of the observation; NULL = not stated"),
            text("region", "region of the observation; NULL = not stated"),
            text("term", "on-demand, spot, 1m, …; NULL = not stated"),
        ],
        priced(),
    ]
    .concat()
}

pub(crate) fn conversions() -> Vec<Field> {
    let text = |name, doc| opt(name, Text, "", doc);
    let factor = |name, doc| opt(name, Factor, "to_unit per from_unit", doc);
    vec![
        text("from_unit", "unit converted from: gpu_hour, USD, …"),
        text("to_unit", "unit converted to: token, CNY, …"),
        text("model", "model that the factor holds for; NULL = any"),
        text("hardware", "hardware that the factor holds for; NULL = any"),
        text("scenario", "batch, latency and precision scenario: a factor without one is meaningless"),
        factor("low", "low estimate; NULL = none"),
        factor("mid", "the factor"),
        factor("high", "high estimate; NULL = none"),
        opt("valid_from", Time, "ns UTC", "from when the factor holds"),
        opt("valid_to", Time, "ns UTC", "until when (exclusive) the factor holds; NULL = until replaced"),
        text("source", "where the factor comes from"),
    ]
}

pub(crate) fn documents() -> Vec<Field> {
    vec![
        opt("uri", Text, "", "path or address that the document was read from"),
        opt("media_type", Text, "", "kind of document, for example text/csv or application/vnd.databento.dbn-metadata"),
        opt("body", Bytes, "", "the document's bytes, unpacked; one part of them where parts > 1"),
        opt("sha256", Bytes, "", "SHA-256 of the whole unpacked document"),
        opt("bytes", I64, "bytes", "length of the file as received, before unpacking"),
        opt("part", I32, "", "number of this part, from 0"),
        opt("parts", I32, "", "number of parts"),
    ]
}

pub(crate) fn sources() -> Vec<Field> {
    let text = |name, doc| opt(name, Text, "", doc);
    let int = |name, doc| opt(name, I64, "", doc);
    vec![
        text("name", "file name, path or address as given"),
        text("member", "name of the archive member; NULL where the file is not an archive"),
        text("parser", "parser that read it, with its version"),
        text("path_facts", "what the path or member name adds to the content (date, expiry, symbol), as JSON"),
        opt("bytes", I64, "bytes", "length as received, before unpacking"),
        opt("sha256", Bytes, "", "SHA-256 of the unpacked bytes read so far; NULL where not yet read to the end"),
        int("version", "header: format version (DBN)"),
        opt("start", Time, "ns UTC", "header: start of the query; NULL where undefined"),
        opt("end", Time, "ns UTC", "header: end of the query; NULL where undefined"),
        opt("limit", U64, "records", "header: limit of the query; NULL = none"),
        text("stype_in", "header: symbology type asked by"),
        text("stype_out", "header: symbology type answered in"),
        opt("ts_out", Bool, "", "header: whether records carry ts_out"),
        text("symbols", "header: symbols asked for, as JSON"),
        int("n_symbols", "header: number of symbols asked for"),
        int("n_mappings", "header: number of symbol mappings"),
        text("columns", "header: the column names of a text file, as JSON"),
    ]
}

fn origin() -> Vec<Field> {
    vec![
        opt("origin_topic", Text, "", "topic where it stood or was to stand; NULL = not known"),
        opt("origin_partition", I32, "", "partition where it stood; NULL = it never reached the log"),
        opt("origin_offset", I64, "", "offset where it stood; NULL = it never reached the log"),
        opt("field", Text, "", "the column at fault; NULL = the whole record"),
    ]
}

pub(crate) fn quarantine() -> Vec<Field> {
    [origin(), vec![opt("raw", Bytes, "", "what could not be decoded, whole")]].concat()
}

pub(crate) fn gaps() -> Vec<Field> {
    [
        origin(),
        vec![
            opt("from_seq", I64, "", "first missing sequence number or offset (inclusive)"),
            opt("to_seq", I64, "", "last missing sequence number or offset (inclusive)"),
        ],
    ]
    .concat()
}
