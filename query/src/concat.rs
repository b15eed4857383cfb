//! `||` of texts says so before it makes much: a chain of two thousand of them, each of a text that a function made, is a thousand times the text.

use crate::room;
use arrow::array::{ArrayRef, AsArray};
use arrow::compute::kernels::concat_elements::concat_elements_utf8;
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::BinaryExpr;
use datafusion::logical_expr::{ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility};
use std::sync::{Arc, LazyLock};

static CONCAT: LazyLock<Arc<ScalarUDF>> =
    LazyLock::new(|| Arc::new(ScalarUDF::from(Concat { signature: Signature::exact(vec![DataType::Utf8; 2], Volatility::Immutable) })));

/// The bounded function in the place of `||` of two texts; `type_of` knows the types of operands.
pub(crate) fn bounded(expr: &Expr, type_of: impl Fn(&Expr) -> Result<DataType>) -> Result<Option<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) = expr else { return Ok(None) };
    let is_text = |operand: &Expr| Ok::<_, datafusion::error::DataFusionError>(is_bounded(operand) || type_of(operand)? == DataType::Utf8);
    Ok((is_text(left)? && is_text(right)?).then(|| CONCAT.call(vec![left.as_ref().clone(), right.as_ref().clone()])))
}

/// One that has been put there: the type of a long chain need not be looked for.
fn is_bounded(operand: &Expr) -> bool {
    matches!(operand, Expr::ScalarFunction(call) if call.func.inner().is::<Concat>())
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Concat {
    signature: Signature,
}

impl ScalarUDFImpl for Concat {
    fn name(&self) -> &str {
        "||"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(format!("{} || {}", args[0].schema_name(), args[1].schema_name()))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let one = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let rows = if one { 1 } else { args.number_rows };
        room::check("||", args.args.iter().map(|text| room::text_bytes(text, rows)).sum::<Result<u64>>()?, one)?;
        let texts: Vec<ArrayRef> = args.args.iter().map(|text| text.to_array(rows)).collect::<Result<_>>()?;
        let together: ArrayRef = Arc::new(concat_elements_utf8(texts[0].as_string::<i32>(), texts[1].as_string::<i32>())?);
        Ok(if one { ColumnarValue::Scalar(ScalarValue::try_from_array(&together, 0)?) } else { ColumnarValue::Array(together) })
    }
}
