//! `octet_length` of bytes as well as of text: DataFusion's own takes text alone, and bytes that are no UTF-8 cannot become text.

use arrow::compute::kernels::length::length;
use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::functions::string::octet_length::OctetLengthFunc;
use datafusion::logical_expr::{
    Coercion, ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature, TypeSignatureClass, Volatility,
};

/// The function `octet_length` of every query.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct OctetLength {
    of_text: OctetLengthFunc,
    signature: Signature,
}

impl OctetLength {
    pub(crate) fn new() -> OctetLength {
        let of_text = OctetLengthFunc::new();
        let of_bytes = TypeSignature::Coercible(vec![Coercion::new_exact(TypeSignatureClass::Binary)]);
        let signature = Signature::one_of(vec![of_text.signature().type_signature.clone(), of_bytes], Volatility::Immutable);
        OctetLength { of_text, signature }
    }
}

impl ScalarUDFImpl for OctetLength {
    fn name(&self) -> &str {
        "octet_length"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, of: &[DataType]) -> Result<DataType> {
        match of[0] {
            DataType::LargeBinary => Ok(DataType::Int64),
            DataType::Binary | DataType::BinaryView | DataType::FixedSizeBinary(_) | DataType::Null => Ok(DataType::Int32),
            _ => self.of_text.return_type(of),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let of = args.args[0].data_type();
        if of == DataType::Null {
            return Ok(ColumnarValue::Scalar(ScalarValue::Int32(None)));
        }
        if !of.is_binary() && !matches!(of, DataType::FixedSizeBinary(_)) {
            return self.of_text.invoke_with_args(args);
        }
        match &args.args[0] {
            ColumnarValue::Array(bytes) => Ok(ColumnarValue::Array(length(bytes)?)),
            ColumnarValue::Scalar(bytes) => {
                let one = length(&bytes.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&one, 0)?))
            }
        }
    }
}
