"""How large an input may be; every reader asks here before it decodes anything."""

from dataclasses import dataclass

from vilam3.errors import DataError, TooLargeError

MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on one study.

    Attributes:
        max_bytes: Size of the file, or of all files of a directory or archive, unpacked.
        max_files: Files in a directory or archive.
        max_pixels: Rows times columns of a picture, radiograph or slice.
        max_voxels: Voxels of one volume; four bytes each in memory.
        max_zip_ratio: Unpacked to packed size of an archive.
        max_depth: Folders within folders.
    """

    max_bytes: int = 4096 * MIB
    max_files: int = 5_000
    max_pixels: int = 64_000_000
    max_voxels: int = 512 * MIB
    max_zip_ratio: float = 200.0
    max_depth: int = 8

    def check_bytes(self, num_bytes: int, *, where: str) -> None:
        """Raise `TooLargeError` beyond `max_bytes`, `DataError` for nothing at all."""
        if num_bytes == 0:
            raise DataError(f"{where}: the file is empty (0 bytes); the transfer was probably cut, send it again")
        if num_bytes > self.max_bytes:
            raise TooLargeError(
                f"{where}: {num_bytes / MIB:,.0f} MiB, more than the limit of {self.max_bytes / MIB:,.0f} MiB; "
                "send fewer or smaller images"
            )

    def check_pixels(self, rows: int, columns: int, *, where: str) -> None:
        """Raise `TooLargeError` beyond `max_pixels`, `DataError` for a picture without pixels."""
        if rows < 1 or columns < 1:
            raise DataError(f"{where}: {columns} x {rows} pixels; a picture needs at least one row and one column")
        if rows * columns > self.max_pixels:
            raise TooLargeError(
                f"{where}: {columns:,} x {rows:,} pixels, more than the limit of {self.max_pixels:,}; scale it down"
            )

    def check_voxels(self, shape: tuple[int, ...], *, where: str) -> None:
        """Raise `TooLargeError` beyond `max_voxels`, `DataError` for an empty or absurd shape."""
        sizes = " x ".join(f"{size:,}" for size in shape)
        if any(size < 1 for size in shape):
            raise DataError(f"{where}: a volume of {sizes} voxels; every axis needs at least one")
        num_voxels = 1
        for size in shape:
            num_voxels *= size
        if num_voxels > self.max_voxels:
            raise TooLargeError(
                f"{where}: {sizes} voxels, more than the limit of {self.max_voxels:,}; crop or resample it"
            )

    def check_files(self, num_files: int, *, where: str) -> None:
        """Raise `TooLargeError` beyond `max_files`."""
        if num_files > self.max_files:
            raise TooLargeError(
                f"{where}: {num_files:,} files, more than the limit of {self.max_files:,}; send one series"
            )
