"""Eight numbers at once: a type for the compiled loops, so that the same lines work on one sample or on eight.

LLVM turns them into whatever SIMD registers there are. Its own vectoriser isn't left to decide, because every operation
here is the IEEE one and nothing is fused but what says :func:`fma`: a loop gives the same bits for one row or for many,
on every machine.
"""

from __future__ import annotations

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

WIDTH = 8

_LLVM = {types.float64: ir.DoubleType(), types.uint64: ir.IntType(64), types.boolean: ir.IntType(1)}


class Lanes(types.Type):
    """:data:`WIDTH` numbers of one type, or as many truth values."""

    def __init__(self, element):
        self.element = element
        self.llvm = ir.VectorType(_LLVM[element], WIDTH)
        super().__init__(name=f"Lanes({element})")


_FLOATS, _BITS, _TRUTHS = Lanes(types.float64), Lanes(types.uint64), Lanes(types.boolean)


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        super().__init__(manager, lanes, lanes.llvm)


def _widened(context, builder, given, value, element):
    """The value itself if it is lanes, else the number in every lane."""
    if isinstance(given, Lanes):
        return value
    number = context.cast(builder, value, given, element)
    lanes = ir.VectorType(number.type, WIDTH)
    nothing, first = ir.Constant(lanes, ir.Undefined), ir.Constant(ir.IntType(32), 0)
    return builder.shuffle_vector(builder.insert_element(nothing, number, first), nothing, _order([0] * WIDTH))


def _order(indices):
    return ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), indices)


def _operator(op, build, element=types.float64, result=None):
    """Teach the compiler an operator: lanes with lanes, or with a number on either side."""
    lanes, number = Lanes(element), types.Float if element is types.float64 else types.Integer

    @type_callable(op)
    def typed(_):
        def typer(left, right):
            wide = [given for given in (left, right) if given == lanes]
            return (result or lanes) if wide else None

        return typer

    def lowered(context, builder, signature, arguments):
        pairs = zip(signature.args, arguments, strict=True)
        return build(builder, *(_widened(context, builder, given, value, element) for given, value in pairs))

    for pair in ((lanes, lanes), (lanes, number), (number, lanes)):
        lower_builtin(op, *pair)(lowered)


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
_operator(operator.lt, lambda builder, a, b: builder.fcmp_ordered("<", a, b), result=_TRUTHS)
_operator(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), result=_TRUTHS)
_operator(operator.add, lambda builder, a, b: builder.add(a, b), types.uint64)
_operator(operator.sub, lambda builder, a, b: builder.sub(a, b), types.uint64)
_operator(operator.or_, lambda builder, a, b: builder.or_(a, b), types.uint64)
_operator(operator.lshift, lambda builder, a, b: builder.shl(a, b), types.uint64)
_operator(operator.rshift, lambda builder, a, b: builder.lshr(a, b), types.uint64)


def _alike(context, builder, kind, given, values):
    """Arguments as one kind: all lanes, or all numbers."""
    for each, value in zip(given, values, strict=True):
        if isinstance(kind, Lanes):
            yield _widened(context, builder, each, value, types.float64)
        else:
            yield context.cast(builder, value, each, types.float64)


def _result(*given):
    return _FLOATS if any(isinstance(each, Lanes) for each in given) else types.float64


def _llvm_function(name):
    """One of LLVM's functions of floating-point numbers."""

    def build(context, builder, signature, arguments):
        kind = signature.return_type
        values = list(_alike(context, builder, kind, signature.args, arguments))
        function = ir.FunctionType(values[0].type, [value.type for value in values])
        suffix = f"v{WIDTH}f64" if isinstance(kind, Lanes) else "f64"
        called = cgutils.get_or_insert_function(builder.module, function, f"llvm.{name}.{suffix}")
        return builder.call(called, values)

    return build


@intrinsic
def fma(_, a, b, c):
    """a b + c, rounded once."""
    return _result(a, b, c)(a, b, c), _llvm_function("fma")


@intrinsic
def sqrt(_, a):
    """√a."""
    return _result(a)(a), _llvm_function("sqrt")


@intrinsic
def magnitude(_, a):
    """|a|."""
    return _result(a)(a), _llvm_function("fabs")


def _chosen(sign):
    def build(context, builder, signature, arguments):
        a, b = _alike(context, builder, signature.return_type, signature.args, arguments)
        return builder.select(builder.fcmp_ordered(sign, a, b), a, b)

    return build


@intrinsic
def larger(_, a, b):
    """The larger one; b where a is no number."""
    return _result(a, b)(a, b), _chosen(">")


@intrinsic
def smaller(_, a, b):
    """The smaller one; b where a is no number."""
    return _result(a, b)(a, b), _chosen("<")


@intrinsic
def where(_, condition, a, b):
    """a where the condition holds, else b."""

    def build(context, builder, signature, arguments):
        kind = signature.return_type
        holds = arguments[0]
        if not isinstance(kind, Lanes):
            holds = builder.icmp_unsigned("!=", holds, holds.type(0))
        return builder.select(holds, *_alike(context, builder, kind, signature.args[1:], arguments[1:]))

    return (_FLOATS if condition == _TRUTHS else types.float64)(condition, a, b), build


@intrinsic
def anywhere(_, condition):
    """Whether a condition holds in any lane."""

    def build(context, builder, signature, arguments):
        function = ir.FunctionType(ir.IntType(1), [arguments[0].type])
        name = f"llvm.vector.reduce.or.v{WIDTH}i1"
        return builder.call(cgutils.get_or_insert_function(builder.module, function, name), arguments)

    return types.boolean(condition), build


@intrinsic
def bits(_, a):
    """The bits of floating-point numbers."""
    kind = _BITS if isinstance(a, Lanes) else types.uint64
    llvm = kind.llvm if isinstance(a, Lanes) else _LLVM[kind]
    return kind(a), lambda _, builder, __, arguments: builder.bitcast(arguments[0], llvm)


@intrinsic
def from_bits(_, a):
    """The floating-point numbers with these bits."""
    kind = _FLOATS if isinstance(a, Lanes) else types.float64
    llvm = kind.llvm if isinstance(a, Lanes) else _LLVM[kind]
    return kind(a), lambda _, builder, __, arguments: builder.bitcast(arguments[0], llvm)


def _place(context, builder, signature, arguments, which, index):
    """Pointer to lanes in a contiguous array, which is argument number ``which``."""
    array = context.make_array(signature.args[which])(context, builder, arguments[which])
    return builder.bitcast(builder.gep(array.data, [index]), _FLOATS.llvm.as_pointer())


def _index(context, builder, signature, arguments, which):
    return context.cast(builder, arguments[which], signature.args[which], types.intp)


def _read(builder, place):
    value = builder.load(place)
    value.align = 8
    return value


def _write(builder, value, place):
    builder.store(value, place).align = 8


@intrinsic
def load(_, array, n):
    """Lanes from the n-th number of a contiguous float64 array on, counted through all dimensions."""

    def build(context, builder, signature, arguments):
        index = _index(context, builder, signature, arguments, 1)
        return _read(builder, _place(context, builder, signature, arguments, 0, index))

    return _FLOATS(array, n), build


@intrinsic
def store(_, array, n, lanes):
    """The reverse of :func:`load`; a number is written to every lane."""

    def build(context, builder, signature, arguments):
        index = _index(context, builder, signature, arguments, 1)
        value = _widened(context, builder, signature.args[2], arguments[2], types.float64)
        _write(builder, value, _place(context, builder, signature, arguments, 0, index))
        return context.get_dummy_value()

    return types.none(array, n, lanes), build


@intrinsic
def take(_, array, n):
    """The n-th number of a contiguous array as float64, counted through all dimensions.

    Unlike ``array[n]`` it isn't asked whether n counts from the end, for which a loop would stay without SIMD.
    """

    def build(context, builder, signature, arguments):
        index = _index(context, builder, signature, arguments, 1)
        array_of = context.make_array(signature.args[0])(context, builder, arguments[0])
        value = builder.load(builder.gep(array_of.data, [index]))
        return context.cast(builder, value, signature.args[0].dtype, types.float64)

    return types.float64(array, n), build


@intrinsic
def put(_, array, n, value):
    """The reverse of :func:`take`."""

    def build(context, builder, signature, arguments):
        index = _index(context, builder, signature, arguments, 1)
        array_of = context.make_array(signature.args[0])(context, builder, arguments[0])
        value = context.cast(builder, arguments[2], signature.args[2], signature.args[0].dtype)
        builder.store(value, builder.gep(array_of.data, [index]))
        return context.get_dummy_value()

    return types.none(array, n, value), build


@intrinsic
def sum_of(_, lanes):
    """The sum of all lanes, in pairs."""

    def build(context, builder, signature, arguments):
        total = arguments[0]
        for half in (WIDTH >> n for n in range(1, WIDTH.bit_length())):
            total = builder.fadd(total, builder.shuffle_vector(total, total, _order([n ^ half for n in range(WIDTH)])))
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return types.float64(lanes), build


@intrinsic
def transpose(_, source, n, source_step, target, m, target_step):
    """WIDTH times WIDTH numbers: lanes at n, n + source_step, … become those at m, m + target_step, …, turned over."""

    def build(context, builder, signature, arguments):
        start, step, to, to_step = (_index(context, builder, signature, arguments, which) for which in (1, 2, 4, 5))
        rows = []
        for row in range(WIDTH):
            index = builder.add(start, builder.mul(step, step.type(row)))
            rows.append(_read(builder, _place(context, builder, signature, arguments, 0, index)))
        # Interleaving the halves like a pack of cards turns a square over in as many rounds as it has doublings.
        half = WIDTH // 2
        low = _order([n // 2 + (n % 2) * WIDTH for n in range(WIDTH)])
        high = _order([half + n // 2 + (n % 2) * WIDTH for n in range(WIDTH)])
        for _ in range(WIDTH.bit_length() - 1):
            pairs = zip(rows[:half], rows[half:], strict=True)
            rows = [builder.shuffle_vector(a, b, order) for a, b in pairs for order in (low, high)]
        for row, value in enumerate(rows):
            index = builder.add(to, builder.mul(to_step, to_step.type(row)))
            _write(builder, value, _place(context, builder, signature, arguments, 3, index))
        return context.get_dummy_value()

    return types.none(source, n, source_step, target, m, target_step), build
