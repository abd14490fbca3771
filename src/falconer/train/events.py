"""The TensorBoard events of a run: the rows of steps.jsonl, as `tensorboard --logdir` shows them.

A resumed run writes all events anew from its rows: TensorBoard reads files in the order of the times in their names, so
after a clock was set back it would take those of the resumed process for older ones. Events are written at once and
without a thread, so that an error is raised where it can be explained.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from falconer.files.durable import make_folder, sync_folder
from falconer.records import StepRow


class Events:
    """The file of a run's events; one at a time.

    Args:
        folder: for TensorBoard; files of earlier processes in it are replaced.
        rows: of the steps already done.
    """

    def __init__(self, folder: Path, rows: Sequence[StepRow]) -> None:
        make_folder(folder)
        before = [path for path in folder.iterdir() if "tfevents" in path.name]
        now = time.time()
        # TensorBoard looks for "tfevents"; the rest of the name makes it unique, whatever the clock says.
        path = folder / f"events.out.tfevents.{int(now):010d}.{secrets.token_hex(4)}"
        self._file = path.open("xb")
        self._writer = RecordWriter(self._file)
        self._add(Event(wall_time=now, file_version="brain.Event:2"))
        # Whoever watches the folder forgets what an earlier process wrote.
        self._add(Event(wall_time=now, step=1, session_log=SessionLog(status=SessionLog.START)))
        for at, row in _times(rows, now):
            self.add(row, at)  # type: ignore[arg-type]  # its values are numbers
        self._file.flush()
        for old in before:
            old.unlink()
        sync_folder(folder)

    def add(self, row: Mapping[str, float], at: float | None = None) -> None:
        """Write an event for each value of a row.

        Args:
            at: when it was measured, in seconds since 1970; None: now.
        """
        group = "valid" if "valid_loss" in row else "train"
        at = time.time() if at is None else at
        for name, value in row.items():
            if name != "step":
                # As SummaryWriter.add_scalar does.
                values = [Summary.Value(tag=f"{group}/{name}", simple_value=value)]
                self._add(Event(wall_time=at, step=int(row["step"]), summary=Summary(value=values)))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _add(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())


def _times(rows: Sequence[StepRow], now: float) -> list[tuple[float, StepRow]]:
    """Return each row with a time, as if the steps had been done one after another until now."""
    trained_s = [row["time_s"] for row in rows if "time_s" in row]
    start, latest = now - (trained_s[-1] if trained_s else 0.0), 0.0
    found = []
    for row in rows:
        latest = row.get("time_s", latest)
        found.append((start + latest, row))
    return found
