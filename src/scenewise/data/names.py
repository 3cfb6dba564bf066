"""Resolver: the files that the records of a data set name, whichever system wrote the names.

Annotation tools write names as their own system has them: ``images\\a.jpg``, ``C:\\data\\a.jpg``, ``my%20photo.jpg``,
``/data/upload/1/a.jpg``, ``IMG_1.jpg`` for a file ``IMG_1.JPG``, letters with their accent apart (NFD), the folder of a
machine far away, or no folder at all. Each is found here as long as only one file can be meant, and no file outside the
data set's own folder ever is.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from os.path import splitext
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from scenewise.errors import DataError

SPLIT_FOLDER = re.compile(r"(?:(train)(?:ing)?|(val)(?:id|idation)?|(test)(?:ing)?)(?:[-_]?\d{4})?", re.IGNORECASE)
MAX_SEARCHED = 2_000_000  # entries of folders that a search through sub-folders looks at
MAX_LENGTH = 4096  # letters in a name, as Linux has it
MAX_HINTS = 5  # names whose near match is looked for; where thousands are missing, the first ones tell why
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|/data/(?:local-files/\?|upload/)")
_DRIVE = re.compile(r"[A-Za-z]:(?=[\\/])")
_TASK = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of a file that is uploaded to it


class Resolver:
    """Finds files by the names that records give them.

    A name is tried in this order; the first that is there is meant:

    1. as it stands, in each of ``folders``;
    2. with backslashes, URL encoding, Unicode form and upper or lower case read as another system would;
    3. without the leading folders that are not here (those of another machine, ``..``), the fewest possible;
    4. in a sub-folder, where the record leaves the folder out;
    5. without the eight letters and the hyphen that Label Studio puts before a name.

    From 2 on one file only may fit. A name that says ``val`` is never found in ``train``, nor the other way round, and
    a search through sub-folders enters no folder of another split.

    Args:
        root: the data set's own folder.
        folders: where the files may be, in order of preference, as paths or relative to ``root``; ``root`` if none.
        suffixes: where given, such as ``IMAGE_SUFFIXES``, a name may lack its ending.
        what: the kind of file, for messages.
    """

    def __init__(
        self, root: Path, *folders: Path | str, suffixes: Collection[str] = (), what: str = "an image file"
    ) -> None:
        self.root, self.what = root, what
        self._suffixes = frozenset(suffixes)
        self.folders = tuple(dict.fromkeys(self._relative(folder) for folder in folders or (root,)))
        self._listings: dict[str, frozenset[str]] = {}
        self._keys: dict[str, dict[str, list[str]]] = {}
        self._deep: dict[str, list[str]] | None = None  # key of a file's name -> its places below root
        self._hints = 0
        self._loose: dict[str, str] = {}  # places that were found by another name than their own -> that name

    def find(self, name: str) -> Path:
        """The file that ``name`` means.

        Raises:
            DataError: there is none, or several fit; the message names what is near.
        """
        return self.root / self.place(name)

    def place(self, name: str) -> str:
        """Where the file that ``name`` means is, below ``root`` and with ``/``. Errors as for :meth:`find`."""
        place, message = self._look(name)
        if not place:
            raise self._error(name, message)
        return place

    def places(self, names: Sequence[str]) -> tuple[list[str], dict[int, DataError]]:
        """The places of many files, and the errors of those that are not found, by position.

        The place of those is the name itself. A file that one name states exactly is not found by another one.
        """
        found, why = self.look_up(names)
        return found, {index: self._error(names[index], message) for index, message in why.items()}

    def home_of(self, names: Sequence[str]) -> str | None:
        """The first of the folders where all of ``names`` are exactly as they stand; None where there is none such."""
        for place, folder in enumerate(self.folders):
            before = self.folders[:place]
            for name in names:
                if not self._stands_in(folder, name) or any(self._stands_in(other, name) for other in before):
                    break
            else:
                return folder
        return None

    def _stands_in(self, folder: str, name: str) -> bool:
        head, _, tail = name.rpartition("/")
        if name.startswith("/") or ".." in head or not tail or "\0" in name:
            return False
        return tail in self._listed(_join(folder, head) if head else folder)

    def look_up(self, names: Sequence[str]) -> tuple[list[str], dict[int, str]]:
        """The same, with messages in place of errors: there may be a million."""
        found = [self._exact(name) for name in names]
        why: dict[int, str] = {}
        if None in found:
            taken = {place: name for place, name in zip(found, names, strict=True) if place is not None}
            for index, name in enumerate(names):
                if found[index] is None:
                    place, why[index] = self._look(name)
                    if place and taken.get(place, name) != name:
                        why[index] = self._doubled(place, taken[place])
                    elif place:
                        found[index] = place
                        del why[index]
        return [name if place is None else place for name, place in zip(names, found, strict=True)], why

    def _error(self, name: str, message: str) -> DataError:
        folder = self.root / (self.folders[0] if len(self.folders) == 1 else "")
        return DataError(f"{folder / printable(name)}: {message}")

    def _look(self, name: str) -> tuple[str, str]:
        """The place of ``name``, empty where it is not found, and why not."""
        place = self._exact(name)
        if place is not None:
            return place, ""
        found = self._loosely(name)
        if len(found) > 1:
            listed = ", ".join(str(self.root / place) for place in found[:3])
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            return "", f"{len(found)} files fit: {listed}{more}; expected one"
        if not found:
            return "", f"not found; expected {self.what}{self._hint(name)}"
        other = self._loose.setdefault(found[0], name)
        return (found[0], "") if other == name else ("", self._doubled(found[0], other))

    def _doubled(self, place: str, other: str) -> str:
        return f"may mean {self.root / place}, as {printable(other)!r} does; expected {self.what} for each"

    # ---- the ways in which a name is tried

    def _exact(self, name: str) -> str | None:
        folder = next((folder for folder in self.folders if self._stands_in(folder, name)), None)
        return None if folder is None else _join(folder, name)

    def _loosely(self, name: str) -> list[str]:
        if "\0" in name or len(name) > MAX_LENGTH:
            return []
        last = name.replace("\\", "/").rpartition("/")[2]
        if "%" not in name and "?" not in name and not self._is_known(last):
            return []
        readings = self._readings(name)
        for parts, outside in readings:
            for dropped in range(len(parts)):
                found = self._in_folders(parts, dropped, in_order=dropped == 0 and not outside)
                if found:
                    return found
        parts = readings[0][0]
        found = self._in_subfolders(parts)
        if not found and _TASK.match(parts[-1]):
            parts = [*parts[:-1], _TASK.sub("", parts[-1], count=1)]
            found = next(filter(None, (self._in_folders(parts, dropped) for dropped in range(len(parts)))), [])
        return found

    def _is_known(self, name: str) -> bool:
        """Whether a file of this name may be anywhere below the folders; thousands may be missing, so that this is
        asked first."""
        files = self._files_below()
        return _key(name) in files or _key(_TASK.sub("", name, count=1)) in files

    def _readings(self, name: str) -> list[tuple[list[str], bool]]:
        """The folders and the file that ``name`` may stand for, and whether they begin outside of the data set."""
        texts = [name]
        if _URL.match(name):
            try:
                address = urlsplit(name)
            except ValueError:  # looks like an address, and is none
                return [([name], True)]
            texts = [parse_qs(address.query).get("d", [address.path])[0]]  # Label Studio: /data/local-files/?d=a/b.jpg
        readings: list[tuple[list[str], bool]] = []
        for text in dict.fromkeys([*texts, *(unquote(text) for text in texts)]):
            slashed = text.replace("\\", "/")
            outside = slashed.startswith("/") or _DRIVE.match(slashed) is not None or _URL.match(name) is not None
            own = f"{self.root.absolute().as_posix()}/"
            if slashed.startswith(own):
                slashed, outside = slashed[len(own) :], False
            parts: list[str] = []
            for part in _DRIVE.sub("", slashed).split("/"):
                if part == ".." and parts:
                    parts.pop()
                elif part == "..":
                    outside = True
                elif part not in ("", "."):
                    parts.append(part)
            if parts:
                readings.append((parts, outside))
        return readings or [([name], False)]

    def _in_folders(self, parts: Sequence[str], dropped: int, in_order: bool = False) -> list[str]:
        """The places of the file ``parts``, without the first ``dropped`` of them, in all folders; or in the first one
        that has it."""
        found: dict[str, None] = {}
        for folder in self.folders:
            if in_order and found:
                break
            places = [folder]
            for part in parts[dropped:-1]:
                places = [_join(place, match) for place in places for match in self._matches(place, part)]
            for place in places:
                for match in self._matches(place, parts[-1], self._suffixes):
                    if not _other_split(_join(place, match), parts):
                        found[_join(place, match)] = None
        return [*found]

    def _in_subfolders(self, parts: Sequence[str]) -> list[str]:
        """The places of the file ``parts`` anywhere below the folders; those that share most folders with ``parts``."""
        starts = [f"{folder}/" if folder else "" for folder in self.folders]
        found = []
        for place in self._files_below().get(_key(parts[-1]), []):
            inner = [place[len(start) :] for start in starts if place.startswith(start)]
            entered = any(not any(map(split_of, path.split("/")[:-1])) for path in inner)  # no folder of a split
            if entered and not _other_split(place, parts):
                found.append(place)
        shared = [_shared_end([_key(part) for part in place.split("/")], [_key(p) for p in parts]) for place in found]
        return [place for place, count in zip(found, shared, strict=True) if count == max(shared)]

    def _files_below(self) -> dict[str, list[str]]:
        """The places of all files below the folders by the key of their name, with and without its ending."""
        if self._deep is None:
            self._deep = {}
            for place in self._walk():
                name = place.rpartition("/")[2]
                for key in {_key(name), *([_key(splitext(name)[0])] if self._has_suffix(name) else [])}:
                    self._deep.setdefault(key, []).append(place)
        return self._deep

    def _walk(self) -> Iterator[str]:
        seen: set[str] = set()
        waiting = deque(self.folders)
        looked_at = 0
        while waiting and looked_at < MAX_SEARCHED:
            folder = waiting.popleft()
            if folder in seen:
                continue
            seen.add(folder)
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        looked_at += 1
                        if not entry.is_dir(follow_symlinks=False):
                            yield _join(folder, entry.name)
                        elif not entry.name.startswith("."):
                            waiting.append(_join(folder, entry.name))
            except (OSError, ValueError):
                continue

    # ---- what is in folders

    def _relative(self, folder: Path | str) -> str:
        path = Path(os.path.normpath(self.root / folder))
        try:
            inner = path.relative_to(os.path.normpath(self.root)).as_posix()
        except ValueError:
            raise DataError(f"{path}: is not in {self.root}; expected a folder of the data set") from None
        return "" if inner == "." else inner

    def _listed(self, folder: str) -> frozenset[str]:
        if folder not in self._listings:
            try:
                self._listings[folder] = frozenset(os.listdir(self.root / folder))
            except (OSError, ValueError):  # not there, no folder, or not a name that any folder could have
                self._listings[folder] = frozenset()
        return self._listings[folder]

    def _matches(self, folder: str, name: str, suffixes: Collection[str] = ()) -> list[str]:
        """What ``name`` may be in ``folder``: itself, else what equals it in Unicode form, else in lower case, too."""
        names = self._listed(folder)
        if name in names:
            return [name]
        if folder not in self._keys:
            table = self._keys[folder] = {}
            for there in sorted(names):
                table.setdefault(_key(there), []).append(there)
                if self._has_suffix(there):
                    table.setdefault(_key(splitext(there)[0]), []).append(there)
        near = self._keys[folder].get(_key(name), [])
        if not suffixes:
            near = [there for there in near if _key(there) == _key(name)]
        normal = unicodedata.normalize("NFC", name)
        same = [there for there in near if unicodedata.normalize("NFC", there) == normal]
        return same or near

    def _has_suffix(self, name: str) -> bool:
        return splitext(name)[1].lower() in self._suffixes

    # ---- messages

    def _hint(self, name: str) -> str:
        where = ""
        if len(self.folders) > 1:
            where = " in " + " or ".join(str(self.root / folder) for folder in self.folders[:6])
        self._hints += 1
        if self._hints > MAX_HINTS:
            return where
        tail = _key(self._readings(name)[0][0][-1])[:255]
        digits = re.findall(r"\d+", tail)  # the image of another number is another image
        near: dict[str, str] = {}
        for folder in self.folders:
            for there in self._listed(folder):
                if abs(len(there) - len(tail)) <= 6 and len(near) < 20_000:
                    key = _key(there)
                    if re.findall(r"\d+", key) == digits:
                        near.setdefault(splitext(key)[0], _join(folder, there))
        others = difflib.get_close_matches(splitext(tail)[0], near, n=1, cutoff=0.6)
        return f"{where}; did you mean {near[others[0]]!r}?" if others else where


def printable(name: str) -> str:
    """``name`` as it can stand in a message: in one line, without marks that can't be written, not too long."""
    name = name if name.isprintable() else repr(name)[1:-1]
    return name if len(name) <= 200 else f"{name[:80]}...{name[-80:]}"


def _key(name: str) -> str:
    """What names have in common that differ in URL encoding, Unicode form and upper or lower case only."""
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _shared_end(a: Sequence[str], b: Sequence[str]) -> int:
    """How many of the last entries of ``a`` and ``b``, without the very last, are equal."""
    count = 0
    for x, y in zip(reversed(a[:-1]), reversed(b[:-1]), strict=False):
        if x != y:
            break
        count += 1
    return count


def _other_split(place: str, parts: Sequence[str]) -> bool:
    """Whether ``parts`` name the folder of a split, the last one counting, and ``place`` is in another one's."""
    stated = [found for part in parts[:-1] if (found := split_of(part))]
    there = [found for part in place.split("/")[:-1] if (found := split_of(part))]
    return bool(stated and there) and stated[-1] not in there


def split_of(folder: str) -> str:
    """The split that the name of a folder or a file tells of: ``train``, ``val`` or ``test``; empty for others."""
    found = SPLIT_FOLDER.fullmatch(folder)
    return next((word.lower() for word in found.groups() if word), "") if found else ""
