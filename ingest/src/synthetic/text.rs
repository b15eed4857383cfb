//! The text feeds of the sample: contract definitions, index fixings with their inputs, conversions, two price lists, a usage series with a
//! restatement.

use super::{Random, cme};
use std::fmt::Write;

/// Name, content and dataset (where the format does not carry one) of each file.
pub fn files(seed: u64) -> Vec<(String, String, Option<&'static str>)> {
    let (fixings, inputs) = indices(seed);
    vec![
        ("syn-instruments.csv".into(), instruments(), None),
        ("syn-index-values.csv".into(), fixings, None),
        ("syn-index-inputs.csv".into(), inputs, None),
        ("syn-conversions.csv".into(), CONVERSIONS.into(), None),
        ("2026-09-01.model_prices.json".into(), price_map(0), Some("SYN.PRICES")),
        ("2026-10-01.model_prices.json".into(), price_map(1), Some("SYN.PRICES")),
        ("syn-usage.csv".into(), USAGE.into(), None),
    ]
}

/// What a price buys and what a contract is worth: the part of a definition that venues write in rule books, not in feeds.
fn instruments() -> String {
    let mut text = String::from(
        "dataset,symbol,kind,mic,root,expiry,unit,unit_qty,multiplier,currency,price_unit,tick_size,calendar,underlying,valid_from,valid_to\n",
    );
    let mut row = |cells: String| writeln!(text, "{cells},2026-10-05T00:00:00Z,").expect("writing to a String cannot fail");
    for (symbol, expiry) in [("tk2612", "2026-12-15"), ("tk2703", "2027-03-15"), ("tk2706", "2027-06-15"), ("tk2709", "2027-09-15")] {
        row(format!("SYN.XSGE,{symbol},future,XSGE,tk,{expiry}T07:00:00Z,mtok,1000,1000,CNY,mtok,0.005,SHFE,inference tokens"));
    }
    [cme::NYMEX, cme::ICE].iter().flat_map(cme::rule_book).for_each(row);
    text
}

const DAYS: [&str; 5] = ["2026-10-05", "2026-10-06", "2026-10-07", "2026-10-08", "2026-10-09"];
const PROVIDERS: [&str; 5] = ["cloud-a", "cloud-b", "cloud-c", "cloud-d", "cloud-e"];

/// A daily H100 rental index: the volume-weighted mean of its included inputs, to three decimals, with an outlier excluded by rule.
fn indices(seed: u64) -> (String, String) {
    let mut random = Random::new(seed, "index inputs");
    let mut values =
        String::from("dataset,index_id,ts_event,ts_publish,value,unit,currency,price_unit,status,fixing_id,methodology,hardware\n");
    let mut inputs = String::from(
        "dataset,fixing_id,index_id,ts_event,observation_id,evidence,provider,price,volume,included,exclusion_reason,currency,price_unit,hardware,term\n",
    );
    for day in DAYS {
        let fixing = format!("SYN-H100-{day}");
        let (mut weighted, mut volume) = (0i64, 0i64);
        for (number, provider) in PROVIDERS.iter().enumerate() {
            let outlier = random.below(8) == 0;
            let milli = if outlier { 5_990 } else { 2_780 + random.step(60) };
            let hours = 100 + random.below(900) as i64;
            let (included, reason) = if outlier { ("false", "price above twice the median") } else { ("true", "") };
            if !outlier {
                weighted += milli * hours;
                volume += hours;
            }
            writeln!(
                inputs,
                "SYN.INDEX,{fixing},SYN-H100,{day}T19:30:00Z,{fixing}-{number},trade,{provider},{}.{:03},{hours},{included},{reason},USD,gpu_hour,H100,on-demand",
                milli / 1000,
                milli % 1000
            )
            .expect("writing to a String cannot fail");
        }
        let level = (2 * weighted + volume) / (2 * volume.max(1));
        writeln!(
            values,
            "SYN.INDEX,SYN-H100,{day}T20:00:00Z,{day}T20:05:00Z,{}.{:03},USD/gpu_hour,USD,gpu_hour,final,{fixing},1.0,H100",
            level / 1000,
            level % 1000
        )
        .expect("writing to a String cannot fail");
    }
    (values, inputs)
}

/// Tokens per GPU-hour of published benchmark results: samples/s × tokens/sample × 3600 / GPUs (MLPerf Inference 4.1, Llama-2-70B offline).
const CONVERSIONS: &str = "\
dataset,from_unit,to_unit,model,hardware,scenario,low,mid,high,valid_from,valid_to,source
SYN.CONV,gpu_hour,token,llama-2-70b,H100,offline batched 8 GPUs,,11156710.5,,2024-08-28T00:00:00Z,,MLPerf Inference 4.1: 84.2 samples/s × 294.45 tokens
SYN.CONV,gpu_hour,token,llama-2-70b,H200,offline batched 8 GPUs,,15701546.25,,2024-08-28T00:00:00Z,,MLPerf Inference 4.1: 118.5 samples/s × 294.45 tokens
SYN.CONV,USD,CNY,,,spot,,7.10,,2026-10-01T00:00:00Z,,synthetic exchange rate
";

/// A price map of invented models: one price falls, one model goes, one comes.
fn price_map(edition: usize) -> String {
    let entry = |model: &str, input: &str, output: &str| {
        format!(
            "  \"{model}\": {{\"litellm_provider\": \"syn-{}\", \"mode\": \"chat\", \"input_cost_per_token\": {input}, \"output_cost_per_token\": {output}}}",
            &model[..5]
        )
    };
    let entries = match edition {
        0 => vec![
            entry("alpha-large", "3e-06", "1.2e-05"),
            entry("alpha-small", "2e-07", "8e-07"),
            entry("delta-open", "5.5e-07", "1.65e-06"),
        ],
        _ => {
            vec![entry("alpha-large", "2e-06", "8e-06"), entry("alpha-small", "2e-07", "8e-07"), entry("gamma-open", "4.5e-07", "1.8e-06")]
        }
    };
    format!("{{\n{}\n}}\n", entries.join(",\n"))
}

/// A usage series whose March figure was restated in July: as published by 2026-05-28 and as it stands now differ.
const USAGE: &str = "\
dataset,series_id,publisher,jurisdiction,provider,model,direction,stat,period_start,period_end,tokens,qualifier,ts_publish,change,revision,supersedes,reason,uri,note,licence
SYN.USAGE,SYN.DAILY,Synthetic Bureau,ZZ,,,total,daily_average,2025-12-01T00:00:00Z,2026-01-01T00:00:00Z,100000000000000,eq,2026-01-20T00:00:00Z,new,0,,,,synthetic,
SYN.USAGE,SYN.DAILY,Synthetic Bureau,ZZ,,,total,daily_average,2026-03-01T00:00:00Z,2026-04-01T00:00:00Z,140000000000000,eq,2026-03-24T00:00:00Z,new,0,,,,synthetic,
SYN.USAGE,SYN.DAILY,Synthetic Bureau,ZZ,,,total,daily_average,2026-03-01T00:00:00Z,2026-04-01T00:00:00Z,142000000000000,eq,2026-07-15T00:00:00Z,restate,1,0,cached tokens counted from now on,,synthetic,
SYN.USAGE,SYN.DAILY,Synthetic Bureau,ZZ,,,total,daily_average,2026-06-01T00:00:00Z,2026-07-01T00:00:00Z,163000000000000,eq,2026-07-15T00:00:00Z,new,0,,,,synthetic,
";
