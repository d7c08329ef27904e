//! A calculator for reverse Polish notation: `3 4 + 2 *` is 14.

use std::fmt;

#[derive(Debug, PartialEq)]
pub enum Error {
    UnknownToken(String),
    MissingOperand,
    LeftOver(usize),
    Empty,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::UnknownToken(token) => write!(f, "unknown token: {token}"),
            Error::MissingOperand => write!(f, "an operator lacks an operand"),
            Error::LeftOver(n) => write!(f, "{n} values are left over"),
            Error::Empty => write!(f, "nothing to compute"),
        }
    }
}

/// Evaluate one expression; tokens are separated by white space.
pub fn evaluate(expression: &str) -> Result<f64, Error> {
    let mut stack: Vec<f64> = Vec::new();
    for token in expression.split_whitespace() {
        if let Ok(number) = token.parse::<f64>() {
            stack.push(number);
            continue;
        }
        let right = stack.pop().ok_or(Error::MissingOperand)?;
        let left = stack.pop().ok_or(Error::MissingOperand)?;
        stack.push(match token {
            "+" => left + right,
            // HOLE: the other three operators
            _ => return Err(Error::UnknownToken(token.to_string())),
        });
    }
    match stack.len() {
        0 => Err(Error::Empty),
        1 => Ok(stack[0]),
        n => Err(Error::LeftOver(n - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluates_all_operators() {
        assert_eq!(evaluate("3 4 + 2 *"), Ok(14.0));
        assert_eq!(evaluate("1 2 - 4 /"), Ok(-0.25));
        assert_eq!(evaluate("+"), Err(Error::MissingOperand));
    }
}
