"""How a tensor is rebuilt from its planes (format_spec/expressions.md): the forms, and their grammar."""

from __future__ import annotations

from slimtensors.expression.contexts import (
    BaseContext,
    ClassContext,
    Context,
    FactorContext,
    FieldClass,
    FieldContext,
    Mean,
    SignContext,
)
from slimtensors.expression.forms import (
    Cast,
    Decimal,
    Delta,
    Expression,
    Gather,
    LowRank,
    Mul,
    Ref,
    Sparse,
    Stored,
    Sum,
    Trellis,
    Values,
    bases_of,
    values_of,
)
from slimtensors.expression.grammar import parse
from slimtensors.expression.limits import (
    CLASS_TABLES,
    MASK_WIDTH,
    MAX_FACTOR_CLASSES,
    MAX_GROUPS,
    MAX_PRODUCT_SHIFT,
    MAX_STEP,
    MAX_TABLES,
)
from slimtensors.expression.planes import Bits, Part, bits
from slimtensors.expression.records import Field, Record, Span

__all__ = [
    "CLASS_TABLES",
    "MASK_WIDTH",
    "MAX_FACTOR_CLASSES",
    "MAX_GROUPS",
    "MAX_PRODUCT_SHIFT",
    "MAX_STEP",
    "MAX_TABLES",
    "BaseContext",
    "Bits",
    "Cast",
    "ClassContext",
    "Context",
    "Decimal",
    "Delta",
    "Expression",
    "FactorContext",
    "Field",
    "FieldClass",
    "FieldContext",
    "Gather",
    "LowRank",
    "Mean",
    "Mul",
    "Part",
    "Record",
    "Ref",
    "SignContext",
    "Span",
    "Sparse",
    "Stored",
    "Sum",
    "Trellis",
    "Values",
    "bases_of",
    "bits",
    "parse",
    "values_of",
]
