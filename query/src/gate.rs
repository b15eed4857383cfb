//! What may be asked at all: one statement that only reads, of a size that can be planned. Every door goes through here.

use crate::bounds;
use crate::error::Error;
use crate::ignored;
use crate::limits::{BRACKETS, NESTED};
use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{SetExpr, Statement as Sql};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// The statement, where it may be planned; what it asks for is looked at again as a plan ([`verify_read_only`], [`bounds::check_plan`]).
pub(crate) fn admit(sql: &str) -> Result<Statement, Error> {
    bounds::check_text(sql)?;
    let statement = one_statement(sql)?;
    bounds::check_statement(&statement)?;
    ignored::check(&statement)?;
    Ok(statement)
}

/// Does it ask for a plan, in place of rows?
pub(crate) fn explains(statement: &Statement) -> bool {
    match statement {
        Statement::Explain(_) => true,
        Statement::Statement(sql) => matches!(sql.as_ref(), Sql::Explain { .. }),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => false,
    }
}

/// Parses `sql` and lets through what only reads. DataFusion's own check of the plan comes after.
fn one_statement(sql: &str) -> Result<Statement, Error> {
    let syntax = |e: DataFusionError| Error::from_engine("parsing the statement", e);
    check_brackets(sql)?;
    let mut statements = DFParserBuilder::new(sql)
        .with_dialect(&GenericDialect {})
        .with_recursion_limit(NESTED)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(syntax)?;
    let statement = statements
        .pop_front()
        .ok_or(Error::NotOneStatement("the statement is empty: type a query, for example SELECT * FROM trades LIMIT 10"))?;
    if !statements.is_empty() {
        return Err(Error::NotOneStatement("more than one statement in one call: send them one by one"));
    }
    match only_reads(&statement) {
        true => Ok(statement),
        false => Err(Error::Refused { statement: first_words(sql) }),
    }
}

/// Refuses what lies too deep in brackets, before it is parsed: that alone can take longer than anybody waits.
fn check_brackets(sql: &str) -> Result<(), Error> {
    // What cannot be taken apart is told by the parser.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Ok(()) };
    let mut depth = 0usize;
    for token in tokens {
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > BRACKETS {
            return Err(Error::TooLarge(format!(
                "brackets lie too deep inside each other, more than {BRACKETS} of them: name the inner parts in a WITH or a subquery"
            )));
        }
    }
    Ok(())
}

fn only_reads(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(sql) => {
            matches!(
            sql.as_ref(),
            Sql::Query(query) if !writes(&query.body))
                || matches!(
                    sql.as_ref(),
                    Sql::Explain { .. }
                        | Sql::ExplainTable { .. }
                        | Sql::ShowTables { .. }
                        | Sql::ShowColumns { .. }
                        | Sql::ShowFunctions { .. }
                        | Sql::ShowVariable { .. }
                )
        }
        Statement::Explain(explain) => only_reads(&explain.statement),
        Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => false,
    }
}

/// `WITH … INSERT` is a query to the parser.
fn writes(body: &SetExpr) -> bool {
    matches!(body, SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_))
}

/// `create table "x" …` as `CREATE TABLE`: the words that SQL knows.
fn first_words(sql: &str) -> String {
    let known = |word: &String| ALL_KEYWORDS.binary_search(&word.as_str()).is_ok();
    let words: Vec<String> = sql.split_whitespace().take(3).map(str::to_uppercase).take_while(known).collect();
    if words.is_empty() { "this statement".into() } else { words.join(" ") }
}

/// DataFusion's own look at what a plan would change.
pub(crate) fn verify_read_only(plan: &LogicalPlan) -> Result<(), Error> {
    let statement = match plan {
        LogicalPlan::Ddl(ddl) => ddl.name().to_string(),
        LogicalPlan::Dml(dml) => dml.op.to_string(),
        LogicalPlan::Statement(statement) => statement.name().to_string(),
        LogicalPlan::Copy(_) => "COPY".to_string(),
        _ => "this statement".to_string(),
    };
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    read_only.verify_plan(plan).map_err(|_| Error::Refused { statement })
}
