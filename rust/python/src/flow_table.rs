//! `FlowTable`: flows as columns, for data frames, by the Arrow C stream interface.
//!
//! Each page of flows becomes a record batch. A consumer (polars, pyarrow, pandas, DuckDB) gets the
//! batches by their addresses, in a capsule, and copies nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::html;
use crate::values::machines;
use arrow_array::builder::{
    BooleanBuilder, Float64Builder, StringBuilder, UInt16Builder, UInt64Builder,
};
use arrow_array::cast::AsArray;
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::types::{Float64Type, UInt16Type, UInt64Type};
use arrow_array::{ArrayRef, RecordBatch, RecordBatchIterator};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use kbe_nat_engine::view::Flow;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

/// Flows as columns, in a table of Arrow: `polars.DataFrame(table)`, `pyarrow.table(table)`,
/// `pandas.DataFrame.from_arrow(table)`. It does not change any more.
#[pyclass(frozen, module = "kbe_nat")]
pub(crate) struct FlowTable {
    batches: Vec<RecordBatch>,
}

#[pymethods]
impl FlowTable {
    /// The names of the columns, in their order.
    #[getter]
    fn columns(&self) -> Vec<String> {
        schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    fn __len__(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[pyo3(signature = (requested_schema = None))]
    #[allow(clippy::needless_pass_by_value)]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // A producer may ignore a schema that it does not offer.
        drop(requested_schema);
        let batches = self.batches.clone().into_iter().map(Ok::<_, ArrowError>);
        let reader = RecordBatchIterator::new(batches, schema());
        let stream = FFI_ArrowArrayStream::new(Box::new(reader));
        PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
    }

    fn __repr__(&self) -> String {
        format!("<FlowTable: {} flows>", self.__len__())
    }

    /// What notebooks show: the first ten flows.
    fn _repr_html_(&self) -> String {
        let rows = self.batches.iter().flat_map(|batch| {
            (0..batch.num_rows())
                .map(|row| batch.columns().iter().map(|column| cell(column, row)).collect())
        });
        html::table(&self.__repr__(), &self.columns(), rows.take(SHOWN))
    }
}

impl FlowTable {
    /// The table of these pages of flows.
    pub(crate) fn new(pages: impl Iterator<Item = Vec<Flow>>) -> Self {
        Self { batches: pages.map(|page| batch(&page)).collect() }
    }
}

/// Names and types of the columns.
fn schema() -> SchemaRef {
    let field = |name: &str, kind: DataType| Field::new(name, kind, name == "state");
    let mut fields = vec![field("protocol", DataType::Utf8), field("state", DataType::Utf8)];
    fields.extend(["assured", "replied"].map(|name| field(name, DataType::Boolean)));
    for end in ENDS {
        fields.push(field(&format!("{end}_address"), DataType::Utf8));
        fields.push(field(&format!("{end}_port"), DataType::UInt16));
    }
    fields.push(field("service", DataType::Utf8));
    fields.push(field("masquerade", DataType::Boolean));
    let counters = ["packets", "packets_back", "bytes", "bytes_back"];
    fields.extend(counters.map(|name| field(name, DataType::UInt64)));
    fields.extend(["age", "timeout"].map(|name| field(name, DataType::Float64)));
    Arc::new(Schema::new(fields))
}

/// One page as columns, in the order of the schema.
fn batch(flows: &[Flow]) -> RecordBatch {
    let mut columns: Vec<ArrayRef> = vec![
        texts(flows.iter().map(|flow| Some(flow.protocol.to_string()))),
        texts(flows.iter().map(|flow| flow.state.map(str::to_owned))),
        booleans(flows.iter().map(|flow| flow.assured)),
        booleans(flows.iter().map(|flow| flow.replied)),
    ];
    let ends: [fn(&Flow) -> SocketAddr; 4] = [
        |flow| flow.source,
        |flow| flow.destination,
        |flow| flow.reply_source,
        |flow| flow.reply_destination,
    ];
    for end in ends {
        columns.push(texts(flows.iter().map(|flow| Some(end(flow).ip().to_string()))));
        let mut ports = UInt16Builder::new();
        ports.extend(flows.iter().map(|flow| Some(end(flow).port())));
        columns.push(Arc::new(ports.finish()));
    }
    columns.push(texts(flows.iter().map(|flow| Some(flow.service.clone()))));
    columns.push(booleans(flows.iter().map(|flow| flow.masquerade)));
    let counters: [fn(&Flow) -> u64; 4] = [
        |flow| flow.packets[0],
        |flow| flow.packets[1],
        |flow| flow.bytes[0],
        |flow| flow.bytes[1],
    ];
    for counter in counters {
        let mut numbers = UInt64Builder::new();
        numbers.extend(flows.iter().map(|flow| Some(counter(flow))));
        columns.push(Arc::new(numbers.finish()));
    }
    for seconds in [|flow: &Flow| flow.age, |flow: &Flow| flow.timeout] {
        let mut numbers = Float64Builder::new();
        numbers.extend(flows.iter().map(|flow| Some(seconds(flow))));
        columns.push(Arc::new(numbers.finish()));
    }
    // The columns are those of the schema, all of one length: nothing here depends on the flows.
    RecordBatch::try_new(schema(), columns).expect("columns of the schema")
}

/// One value as a text; columns have the types of the schema.
fn cell(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return String::new();
    }
    match column.data_type() {
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::UInt16 => column.as_primitive::<UInt16Type>().value(row).to_string(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).to_string(),
        DataType::Float64 => format!("{:.1}", column.as_primitive::<Float64Type>().value(row)),
        _ => column.as_string::<i32>().value(row).to_owned(),
    }
}

fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    let mut builder = StringBuilder::new();
    builder.extend(values);
    Arc::new(builder.finish())
}

fn booleans(values: impl Iterator<Item = bool>) -> ArrayRef {
    let mut builder = BooleanBuilder::new();
    builder.extend(values.map(Some));
    Arc::new(builder.finish())
}

/// Flows that a notebook shows.
const SHOWN: usize = 10;
const ENDS: [&str; 4] = ["source", "destination", "reply_source", "reply_destination"];

machines! {
    FlowTable: "make a table of pyarrow of it",
}
