"""Files in any of the formats a preference comes in, written by the standard writers."""

import csv
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from orpo_qlora.data.pairs import load_preferences

HEADER = ("prompt", "chosen", "rejected")
ROW = ("why?", "because", "no idea")
HEAD = "prompt,chosen,rejected\n"
LINE = "why?,because,no idea\n"
DIALOGUE = "\n\nHuman: hi\n\nAssistant: yes?\n\nHuman: why?\n\nAssistant: "


def separated(rows, header=HEADER, separator=",", end="\n"):
    memory = io.StringIO()
    writer = csv.writer(memory, delimiter=separator, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([header, *rows])
    return memory.getvalue()


def records(rows, header=HEADER):
    return [dict(zip(header, row, strict=True)) for row in rows]


def json_lines(rows, header=HEADER, end="\n"):
    return "".join(json.dumps(one, ensure_ascii=False) + end for one in records(rows, header))


def json_array(rows, header=HEADER, indent=None):
    return json.dumps(records(rows, header), ensure_ascii=False, indent=indent)


def parquet(rows, header=HEADER):
    memory = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(records(rows, header)), memory)
    return memory.getvalue()


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def loaded(tmp_path, content, choices=None, name="pairs.csv"):
    path = tmp_path / "stored"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_preferences(path, name, choices)


def texts_of(dataset):
    return [(pair.prompt, pair.chosen, pair.rejected) for pair in dataset.pairs]
