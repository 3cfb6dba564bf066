"""The table of every system: its name, where it lies, its paper, and how to build it by name."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import operator
import re
import reprlib
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar

from scenewise.errors import UsageError, suggest
from scenewise.own import own_class

if TYPE_CHECKING:
    from scenewise.model import Model
    from scenewise.types import Interface

T = TypeVar("T")


@dataclass(frozen=True)
class System:
    """One row of the catalog.

    ``location`` is ``module:class`` below ``scenewise.systems``, imported when needed; that of the user's own system is
    its name, ``module:Class``.
    """

    name: str
    location: str
    task: str
    paper: str

    def load(self) -> type[Model]:
        """The system's class.

        Raises:
            UsageError: the user's own module or class is not there, or is no model.
        """
        module, name = self.location.split(":")
        if self.location != self.name:
            return getattr(importlib.import_module(f"scenewise.systems.{module}"), name)  # type: ignore[no-any-return]
        from scenewise.model import Model

        return own_class(self.location, "system", Model)  # type: ignore[type-abstract]


SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System(
            "crf-rnn",
            "segmentation.crf_rnn:CRFRNN",
            "semantic segmentation",
            "Zheng et al., Conditional Random Fields as Recurrent Neural Networks, ICCV 2015, arXiv:1502.03240",
        ),
        System(
            "deeplab-v3",
            "segmentation.deeplab_v3:DeepLabV3",
            "semantic segmentation",
            "Chen et al., Rethinking Atrous Convolution for Semantic Image Segmentation, 2017, arXiv:1706.05587",
        ),
        System(
            "deeplab-v3-plus",
            "segmentation.deeplab_v3:DeepLabV3Plus",
            "semantic segmentation",
            "Chen et al., Encoder-Decoder with Atrous Separable Convolution, ECCV 2018, arXiv:1802.02611",
        ),
        System(
            "fast-rcnn",
            "detection.fast_rcnn:FastRCNN",
            "object detection",
            "Girshick, Fast R-CNN, ICCV 2015, arXiv:1504.08083",
        ),
        System(
            "faster-rcnn",
            "detection.faster_rcnn:FasterRCNN",
            "object detection",
            "Ren et al., Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks, NIPS 2015, "
            "arXiv:1506.01497; Lin et al., Feature Pyramid Networks, CVPR 2017, arXiv:1612.03144",
        ),
        System(
            "fcn",
            "segmentation.fcn:FCN",
            "semantic segmentation",
            "Long et al., Fully Convolutional Networks for Semantic Segmentation, CVPR 2015, arXiv:1411.4038",
        ),
        System(
            "fcn-resnet",
            "segmentation.fcn:FCNResNet",
            "semantic segmentation",
            "torchvision's FCN: Long et al. (CVPR 2015, arXiv:1411.4038) on a dilated ResNet, without skips",
        ),
        System(
            "keypoint-rcnn",
            "pose.keypoint_rcnn:KeypointRCNN",
            "human pose",
            "He et al., Mask R-CNN, ICCV 2017, sec. 5, arXiv:1703.06870",
        ),
        System(
            "mask-rcnn",
            "instance.mask_rcnn:MaskRCNN",
            "instance segmentation",
            "He et al., Mask R-CNN, ICCV 2017, arXiv:1703.06870",
        ),
        System(
            "r-fcn",
            "detection.rfcn:RFCN",
            "object detection",
            "Dai et al., R-FCN: Object Detection via Region-based Fully Convolutional Networks, NIPS 2016, "
            "arXiv:1605.06409",
        ),
        System(
            "rcnn",
            "detection.rcnn:RCNN",
            "object detection",
            "Girshick et al., Rich Feature Hierarchies for Accurate Object Detection and Semantic Segmentation, "
            "CVPR 2014, arXiv:1311.2524",
        ),
        System(
            "retinanet",
            "detection.retinanet:RetinaNet",
            "object detection",
            "Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002",
        ),
        System(
            "rpn",
            "detection.rpn:RegionProposals",
            "region proposals",
            "Ren et al., Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks, NIPS 2015, "
            "sec. 3.1, arXiv:1506.01497",
        ),
        System(
            "single-object",
            "detection.localization:SingleObject",
            "object detection",
            "Sermanet et al., OverFeat: Integrated Recognition, Localization and Detection using Convolutional "
            "Networks, ICLR 2014, arXiv:1312.6229, sec. 4",
        ),
        System(
            "sliding-window",
            "detection.sliding_window:SlidingWindow",
            "object detection",
            "Sermanet et al., OverFeat: Integrated Recognition, Localization and Detection using Convolutional "
            "Networks, ICLR 2014, arXiv:1312.6229",
        ),
        System(
            "ssd",
            "detection.ssd:SSD",
            "object detection",
            "Liu et al., SSD: Single Shot MultiBox Detector, ECCV 2016, arXiv:1512.02325",
        ),
        System(
            "unet",
            "segmentation.unet:UNet",
            "semantic segmentation",
            "Ronneberger, Fischer and Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI "
            "2015, arXiv:1505.04597",
        ),
    )
}


def find(name: str) -> System:
    """The catalog's row for ``name``, or one made for the user's own ``module:Class``.

    Raises:
        UsageError: there is no such system; names the nearest.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    if re.fullmatch(r"[\w.]+:[\w.]+", name):
        return System(name, name, "one's own", "")
    raise UsageError(
        f"there is no system {name!r}{suggest(name, SYSTEMS)}; known: {', '.join(SYSTEMS)}, "
        "and module:Class for one's own"
    )


def name_of(model: Model) -> str:
    """The catalog's name of ``model``'s system; ``module:Class`` for the user's own.

    Raises:
        UsageError: the class can't be found again by its name, as one that a function made.
    """
    cls = type(model)
    for system in SYSTEMS.values():
        module, name = system.location.split(":")
        if cls.__name__ == name and cls.__module__ == f"scenewise.systems.{module}":
            return system.name
    if "<" in cls.__qualname__:
        raise UsageError(
            f"{cls.__qualname__} can't be found by its name; define the class at the top of a module, so that "
            "module:Class names it"
        )
    return f"{cls.__module__}:{cls.__qualname__}"


@dataclass(frozen=True)
class Option:
    """An argument of a system's constructor."""

    name: str
    type: Any
    default: Any  # inspect.Parameter.empty where it must be given
    about: str  # a sentence

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is inspect.Parameter.empty

    def describe(self) -> str:
        """Its type in the words of a signature."""
        return _describe(self.type)


def _describe(type_: Any) -> str:
    type_ = _bare(type_)
    name = type_.__name__ if isinstance(type_, type) and not typing.get_args(type_) else str(type_)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", name)  # without the modules


def _bare(type_: Any) -> Any:
    """``type_`` without the bounds of numbers in it."""
    if typing.get_origin(type_) is typing.Annotated:
        return _bare(typing.get_args(type_)[0])
    inner = tuple(_bare(member) for member in typing.get_args(type_))
    if not inner or inner == typing.get_args(type_):
        return type_
    if typing.get_origin(type_) in (typing.Union, UnionType):
        return functools.reduce(operator.or_, inner)
    return typing.get_origin(type_)[inner]


def options(name: str) -> dict[str, Option]:
    """The arguments of the system ``name``, in the order of its signature."""
    return _options_of(find(name).load())


@cache
def _options_of(cls: type[Model]) -> dict[str, Option]:
    from scenewise.model import declared_arguments

    about: dict[str, str] = {}
    for base in reversed(cls.__mro__):  # what a parent documents need not be written again
        about |= _argument_docs(inspect.cleandoc(vars(base).get("__doc__") or ""))
    found = {}
    for key, (parameter, declaring) in declared_arguments(cls).items():
        hints = typing.get_type_hints(declaring.__init__, include_extras=True)
        found[key] = Option(key, hints.get(key, Any), parameter.default, about.get(key, ""))
    return found


def entries_of(name: str) -> dict[str, dict[str, Option]]:
    """For each argument of the system ``name`` that is a spec, such as ``mask``, its entries by their names.

    Their defaults are the system's own. Those of ``input`` follow from the system and its backbone, and are not stated.
    """
    from scenewise.types import InputSpec

    found: dict[str, dict[str, Option]] = {}
    usual = find(name).load().defaults()
    for option in options(name).values():
        spec = _spec_in(option.type)
        if spec is None:
            continue
        whole = usual.get(option.name, option.default)
        hints = typing.get_type_hints(spec, include_extras=True)
        about = _argument_docs(inspect.cleandoc(spec.__doc__ or ""), "Attributes:")
        entries = {}
        for field in dataclasses.fields(spec):
            default = _default_of(field) if spec is not InputSpec else inspect.Parameter.empty
            default = getattr(whole, field.name) if isinstance(whole, spec) else default
            entries[field.name] = Option(field.name, hints[field.name], default, about.get(field.name, ""))
        found[option.name] = entries
    return found


def _default_of(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default


def _argument_docs(docstring: str, section: str = "Args:") -> dict[str, str]:
    """What the ``section`` of ``docstring`` says of each argument, on one line; several may share a text."""
    about: dict[str, str] = {}
    inside, current = False, ""
    for line in docstring.splitlines():
        if line.strip() == section:
            inside = True
        elif inside and line and not line.startswith(" "):
            break
        elif inside and (start := re.match(r"    (\w+(?:, \w+)*): (.*)", line)):
            current = start[1]
            about[current] = start[2]
        elif inside and current and line.strip():
            about[current] += " " + line.strip()
    return {name: text for names, text in about.items() for name in names.split(", ")}


def check_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` of the system ``name``, converted to the types of its signature.

    What a mapping leaves out of a spec is as in the system's own (``Model.defaults``).

    Raises:
        UsageError: names the argument or the entry of a spec, what was found and what it takes.
    """
    known = options(name)
    for key in arguments:
        if key not in known:
            raise UsageError(f"{name} has no option {key!r}{suggest(key, known)}; known: {', '.join(known)}")
    missing = [o.name for o in known.values() if o.required and o.name not in arguments]
    if missing:
        raise UsageError(f"{name}: {missing[0]} is missing; expected {known[missing[0]].describe()}")
    parts = {key for key, value in arguments.items() if isinstance(value, Mapping)}
    checked = {key: _checked(name, known[key], value) for key, value in arguments.items() if key not in parts}
    defaults = find(name).load().defaults(**checked)
    for key in parts:
        value, whole = dict(arguments[key]), defaults.get(key)
        if dataclasses.is_dataclass(whole) and not isinstance(whole, type):
            value = dataclasses.asdict(whole) | value
        checked[key] = _checked(name, known[key], value)
    return {key: checked[key] for key in arguments}


def _checked(name: str, option: Option, value: Any) -> Any:
    """``value`` for ``option`` of the system ``name``, converted to its type."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    from scenewise.types import InputSpec, is_misplaced_bool

    if is_misplaced_bool(value, option.type):
        found = reprlib.repr(value)
        raise UsageError(
            f"{name}: {option.name} is {found}; expected {option.describe()} (true and false are not numbers)"
        )
    if isinstance(value, Mapping) and InputSpec in (option.type, *typing.get_args(option.type)):
        value = InputSpec.from_dict(dict(value))
    try:
        adapter = TypeAdapter(option.type, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
    except Exception:  # a dataclass brings its own configuration
        adapter = TypeAdapter(option.type)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise UsageError(f"{name}: {_complaint(option, value, error.errors())}") from None


def build_spec(what: str, spec: type[T], values: Mapping[str, Any]) -> T:
    """An instance of the dataclass ``spec`` with these ``values``, checked against the types of its fields.

    Args:
        what: what is built, for messages, such as ``"--crf"``.

    Raises:
        UsageError: names the entry, what was found and what it takes.
    """
    name = re.sub(r"\W", "", what)
    built: T = _checked(what, Option(name, spec, inspect.Parameter.empty, ""), dict(values))
    return built


def _complaint(option: Option, value: Any, errors: Sequence[Any]) -> str:
    """What is wrong within ``value``, and where: an unknown word, else the innermost of pydantic's ``errors``."""
    unknown = [error for error in errors if error["type"] == "unexpected_keyword_argument"]
    error = unknown[0] if unknown else max(errors, key=lambda e: len(e["loc"]))
    place, found, type_ = option.name, value, option.type
    for part in error["loc"]:  # names of a union's members are among the parts; they are no place in the value
        spec = _spec_in(type_)
        fields = [] if spec is None else [field.name for field in dataclasses.fields(spec)]
        if unknown and part == error["loc"][-1]:
            return f"{place} has no entry {part!r}{suggest(str(part), fields)}; known: {', '.join(fields)}"
        if part in fields:
            place, type_ = f"{place}.{part}", typing.get_type_hints(spec)[part]
            if not isinstance(found, Mapping) or part not in found:
                return f"{place} is missing; expected {_describe(type_)}"
        elif isinstance(found, Mapping) and part in found:
            place, type_ = f"{place}.{part}", _element(type_)
        elif isinstance(part, int) and isinstance(found, list | tuple):
            place, type_ = f"{place}[{part}]", _element(type_)
        else:
            continue
        found = found[part]
    return f"{place} is {reprlib.repr(found)}; expected {_describe(type_)} ({error['msg']})"


def _spec_in(type_: Any) -> Any:
    """The dataclass in ``type_``, a union of it and others or itself; None where there is none."""
    members = (member for member in (type_, *typing.get_args(type_)) if isinstance(member, type))
    return next((member for member in members if dataclasses.is_dataclass(member)), None)


def _element(type_: Any) -> Any:
    """The type of what a tuple, list or mapping of ``type_`` holds; Any where that is not known."""
    for member in (type_, *typing.get_args(type_)):
        kind, inner = typing.get_origin(member), [a for a in typing.get_args(member) if a is not Ellipsis]
        if inner and isinstance(kind, type) and issubclass(kind, Mapping | Sequence):
            return inner[-1]
    return Any


def interface_of(name: str, arguments: Mapping[str, Any]) -> Interface:
    """What the system ``name`` reads and returns that is built with these ``arguments`` (its classes may be left out).

    Raises:
        UsageError: as for :func:`check_arguments`.
    """
    checked = check_arguments(name, with_classes(name, ("any",), arguments))
    defaults = {option.name: option.default for option in options(name).values() if not option.required}
    return find(name).load().interface(**{**defaults, **checked})


def build(name: str, classes: Sequence[str] | int, **arguments: Any) -> Model:
    """A new model of the system ``name`` for ``classes``, with random weights except where an argument names some.

    A number in place of ``classes`` gives so many, called ``class-0``, ``class-1`` and so on.

    Example:
        >>> model = build("deeplab-v3", ["road", "sky"], backbone="resnet18", output_stride=16)
    """
    if isinstance(classes, str):
        raise UsageError(f"{name}: classes is the text {classes!r}; expected a sequence of class names")
    if isinstance(classes, int):
        if isinstance(classes, bool) or classes < 0:
            raise UsageError(f"{name}: classes is {classes!r}; expected class names, or how many there are")
        classes = [f"class-{number}" for number in range(classes)]
    return find(name).load()(**check_arguments(name, with_classes(name, tuple(classes), arguments)))


def with_classes(name: str, classes: tuple[str, ...], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` of the system ``name`` with its ``classes``, where it takes any."""
    return {"classes": classes, **arguments} if "classes" in options(name) else dict(arguments)


def plain_arguments(model: Model, describe: Callable[[Model], Any] | None = None) -> dict[str, Any]:
    """``model.arguments`` without its classes, as JSON and YAML can hold them; ``build`` takes them back.

    None is left out where it is the default; elsewhere it is a value as good as others (``multi_grid: null``).

    Args:
        model: of any system.
        describe: what stands for an argument that is a model itself, as a pipeline has them; None: it is refused.

    Raises:
        UsageError: an argument is a model, and nothing describes it.
    """
    from scenewise.model import Model, declared_arguments

    declared = declared_arguments(type(model))
    plain = {}
    for key, value in model.arguments.items():
        if key == "classes" or (value is None and declared[key][0].default is None):
            continue
        if isinstance(value, Model):
            if describe is None:
                raise UsageError(
                    f"{type(model).__name__}: {key} is a model, which a recipe can't hold; train models one by one"
                )
            plain[key] = describe(value)
        else:
            plain[key] = _plain(value)
    return plain


def is_model(option: Option) -> bool:
    """Whether ``option`` takes a model."""
    from scenewise.model import Model

    return any(isinstance(t, type) and issubclass(t, Model) for t in (option.type, *typing.get_args(option.type)))


def _plain(value: Any) -> Any:
    """``value`` as mappings, lists and what they hold, however deep."""
    if hasattr(value, "to_dict"):
        value = value.to_dict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
