// Fast path from COCO RLE dicts to results, without tensors: creating one takes longer than measuring a small mask. It
// accepts a dict, or a list or tuple of dicts, whose size is a list or tuple of two ints and whose counts are bytes or
// ASCII str, as nearly all are. For anything else, and for malformed runs, each function returns None. The caller
// (fastsam_core.rle) then takes the general path, which accepts more and words the errors.
#include <pybind11/gil_safe_call_once.h>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "common/fork_join.h"
#include "rle/rle.h"
#include "rle/rle_bbox.h"
#include "rle/rle_edges.h"
#include "rle/rle_iou.h"
#include "rle/rle_text.h"

namespace fastsam::bindings {

namespace {

namespace rle = fastsam::rle;

// Fewer bytes of text are read in less time than it takes to release the GIL or to start a thread.
constexpr size_t kTextPerThread = size_t{1} << 16;
// Larger results, in bytes, are left to the general path, which checks the machine's memory first.
constexpr int64_t kMaxResult = int64_t{1} << 31;
// Results of more bytes are allocated as zeros by NumPy (see `zeros`); smaller ones are zeroed here.
constexpr size_t kZeroedBytes = size_t{1} << 18;

// One dict. Its pointers are borrowed: valid while the GIL is held, or while Items::owners holds `counts`.
struct Item {
  PyObject* counts;
  const uint8_t* text;
  size_t length;
  int64_t height, width;

  const uint8_t* end() const { return text + length; }
  int64_t pixels() const { return height * width; }
};

struct Items {
  std::vector<Item> items;
  std::vector<py::object> owners;  // keep the texts alive while the GIL is released
  bool single = false;             // a dict, not a list or tuple
  size_t characters = 0;           // of all texts

  int64_t size() const { return static_cast<int64_t>(items.size()); }
  bool large() const { return characters > kTextPerThread; }
  // Whether there is a mask, and all masks have the same size.
  bool have_one_size() const {
    return !items.empty() && std::all_of(items.begin(), items.end(), [&](const Item& item) {
      return item.height == items.front().height && item.width == items.front().width;
    });
  }
};

PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

bool read_side(PyObject* value, int64_t& side) {
  if (!PyLong_CheckExact(value)) return false;
  int overflow = 0;
  side = PyLong_AsLongLongAndOverflow(value, &overflow);
  return overflow == 0 && side <= rle::kMaxPixels;
}

bool read_item(PyObject* object, Item& item) {
  static PyObject* const size_key = interned("size");
  static PyObject* const counts_key = interned("counts");
  if (!PyDict_CheckExact(object)) return false;
  PyObject* size = PyDict_GetItem(object, size_key);
  PyObject* counts = item.counts = PyDict_GetItem(object, counts_key);
  if (size == nullptr || counts == nullptr) return false;
  if (!(PyList_CheckExact(size) || PyTuple_CheckExact(size)) || PySequence_Fast_GET_SIZE(size) != 2) return false;
  if (!read_side(PySequence_Fast_GET_ITEM(size, 0), item.height) ||
      !read_side(PySequence_Fast_GET_ITEM(size, 1), item.width) || !rle::is_valid_size(item.height, item.width)) {
    return false;
  }
  if (PyBytes_CheckExact(counts)) {
    item.text = reinterpret_cast<const uint8_t*>(PyBytes_AS_STRING(counts));
    item.length = static_cast<size_t>(PyBytes_GET_SIZE(counts));
    return true;
  }
  if (!PyUnicode_CheckExact(counts) || !PyUnicode_IS_COMPACT_ASCII(counts)) return false;
  item.text = static_cast<const uint8_t*>(PyUnicode_DATA(counts));
  item.length = static_cast<size_t>(PyUnicode_GET_LENGTH(counts));
  return true;
}

// Parses `object`; returns false unless it has the form described above. Keeps the texts alive if they are long,
// because the GIL is then released while they are read, or if the caller asks for it by `keep_alive`.
bool read_items(PyObject* object, Items& rles, bool keep_alive = false) {
#ifdef Py_GIL_DISABLED
  return false;  // without a GIL another thread could free the borrowed objects at any time
#endif
  rles.single = PyDict_CheckExact(object);
  if (!rles.single && !PyList_CheckExact(object) && !PyTuple_CheckExact(object)) return false;
  rles.items.resize(rles.single ? 1 : static_cast<size_t>(PySequence_Fast_GET_SIZE(object)));
  for (size_t i = 0; i < rles.items.size(); ++i) {
    Item& item = rles.items[i];
    PyObject* dict = rles.single ? object : PySequence_Fast_GET_ITEM(object, static_cast<Py_ssize_t>(i));
    if (!read_item(dict, item)) return false;
    rles.characters += item.length;
  }
  if (rles.large() || keep_alive) {
    for (const Item& item : rles.items) rles.owners.push_back(py::reinterpret_borrow<py::object>(item.counts));
  }
  return true;
}

// Calls work(item, index) for all items; if their texts are long, on several threads and without the GIL. Returns false
// if an item's runs are malformed.
template <typename Work>
bool for_each_item(const Items& rles, int64_t threads, const Work& work) {
  const auto part = [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) work(rles.items[i], i);
  };
  const int64_t mean = static_cast<int64_t>(rles.characters) / std::max<int64_t>(1, rles.size());
  try {
    const int64_t grain = static_cast<int64_t>(kTextPerThread) / 2 / (mean + 1) + 1;
    without_gil([&] { fork_join(rles.large() ? threads : 1, rles.size(), grain, part); }, rles.large());
  } catch (const std::invalid_argument&) {
    return false;
  }
  return true;
}

// Calls visit(run) for each run of the item. Throws std::invalid_argument if they are malformed.
template <typename Visit>
void read_item_runs(const Item& item, const Visit& visit) {
  rle::read_runs(item.text, item.end(), item.pixels(), 0, visit);
}

rle::Edges to_edges(const Item& item) {
  rle::EdgeCollector collector;
  collector.reserve(item.length);
  read_item_runs(item, [&](int64_t run) { collector.add(run); });
  return collector.take();
}

struct NumPy {
  py::object zeros, uint8, uint32;
};

const NumPy& numpy() {
  PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<NumPy> stored;
  return stored
      .call_once_and_store_result([] {
        const py::module_ module = py::module_::import("numpy");
        return NumPy{module.attr("zeros"), module.attr("uint8"), module.attr("uint32")};
      })
      .get_stored();
}

py::object to_text(const std::vector<uint8_t>& text, bool as_str) {
  const char* data = reinterpret_cast<const char*>(text.data());
  if (as_str) return py::str(data, text.size());
  return py::bytes(data, text.size());
}

py::dict to_dict(int64_t height, int64_t width, py::object&& text) {
  static PyObject* const size_key = interned("size");
  static PyObject* const counts_key = interned("counts");
  py::list size(2);
  size[0] = py::int_(height);
  size[1] = py::int_(width);
  py::dict dict;
  if (PyDict_SetItem(dict.ptr(), size_key, size.ptr()) != 0 ||
      PyDict_SetItem(dict.ptr(), counts_key, text.ptr()) != 0) {
    throw py::error_already_set();
  }
  return dict;
}

std::vector<uint8_t> to_text_bytes(const rle::Edges& edges, int64_t pixels) {
  std::vector<int64_t> counts;
  rle::append_runs(edges, pixels, counts);
  std::vector<uint8_t> text;
  text.reserve(counts.size() * 2);
  rle::write_runs(counts.data(), static_cast<int64_t>(counts.size()), text);
  return text;
}

py::object coco_area(const py::object& objects, int64_t threads) {
  Items rles;
  if (!read_items(objects.ptr(), rles)) return py::none();
  std::vector<int64_t> areas(rles.items.size());
  const bool valid = for_each_item(rles, threads, [&](const Item& item, size_t i) {
    int64_t area = 0, inside = 0;  // inside: 0 in background, -1 (all bits set) in foreground
    read_item_runs(item, [&](int64_t run) {
      area += run & inside;
      inside = ~inside;
    });
    areas[i] = area;
  });
  if (!valid) return py::none();
  for (const int64_t area : areas) {
    if (area > UINT32_MAX) return py::none();
  }
  if (rles.single) return numpy().uint32(py::int_(areas.front()));
  py::array_t<uint32_t> result(static_cast<py::ssize_t>(areas.size()));
  for (size_t i = 0; i < areas.size(); ++i) result.mutable_data()[i] = static_cast<uint32_t>(areas[i]);
  return py::object(std::move(result));
}

py::object coco_to_bbox(const py::object& objects, int64_t threads) {
  Items rles;
  if (!read_items(objects.ptr(), rles)) return py::none();
  std::vector<double> out(4 * rles.items.size());
  const bool valid = for_each_item(rles, threads, [&](const Item& item, size_t i) {
    rle::BoxCollector collector(item.height);
    read_item_runs(item, [&](int64_t run) { collector.add(run); });
    int64_t box[4];
    collector.write(box);
    std::copy(box, box + 4, out.begin() + static_cast<std::ptrdiff_t>(4 * i));
  });
  if (!valid) return py::none();
  if (rles.single) return to_array(std::move(out));
  return to_array(std::move(out), rles.size(), 4);
}

// masks: (n, height, width), or if `last` (height, width, n), or (height, width) for a single mask. Returns a list of
// dicts, or the dict of the single mask.
py::object coco_encode(const py::array& masks, bool last, bool as_str, int64_t threads) {
  const char kind = masks.dtype().kind();
  const bool single = last && masks.ndim() == 2;
  if ((masks.ndim() != 3 && !single) || masks.itemsize() != 1 || (kind != 'u' && kind != 'b')) return py::none();
  const int h = last ? 0 : 1, n = last ? 2 : 0;
  const MaskView view{static_cast<const uint8_t*>(masks.data()),
                      single ? 1 : masks.shape(n),
                      masks.shape(h),
                      masks.shape(h + 1),
                      single ? 0 : masks.strides(n),
                      masks.strides(h),
                      masks.strides(h + 1)};
  const int64_t pixels = view.height * view.width;
  if (view.width > UINT32_MAX) return py::none();
  std::vector<std::vector<uint8_t>> texts(static_cast<size_t>(view.n));
  const auto work = [&] {
    std::vector<rle::Edges> edges = rle::find_edges(view, threads);
    for (size_t i = 0; i < texts.size(); ++i) {
      texts[i] = to_text_bytes(edges[i], pixels);
      rle::Edges().swap(edges[i]);
    }
  };
  without_gil(work, pixels * view.n >= static_cast<int64_t>(kTextPerThread));
  if (single) return to_dict(view.height, view.width, to_text(texts.front(), as_str));
  py::list result(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) result[i] = to_dict(view.height, view.width, to_text(texts[i], as_str));
  return py::object(std::move(result));
}

// A uint8 array of zeros. If it is large, its memory comes from the operating system untouched. NumPy rather than torch
// allocates it, since NumPy offers both memory orders and asks for huge pages.
py::object zeros(const std::vector<py::ssize_t>& shape, bool column_major) {
  return numpy().zeros(py::tuple(py::cast(shape)), numpy().uint8, column_major ? "F" : "C");
}

// Returns uint8 masks: (n, height, width) if row_major, else in column-major order (height, width, n), or (height,
// width) for a single dict.
py::object coco_decode(const py::object& objects, bool row_major, int64_t threads) {
  Items rles;
  if (!read_items(objects.ptr(), rles) || !rles.have_one_size()) return py::none();
  const int64_t height = rles.items.front().height, width = rles.items.front().width, n = rles.size();
  int64_t bytes = 0;
  if (__builtin_mul_overflow(height * width, n, &bytes) || bytes > kMaxResult) return py::none();
  std::vector<std::vector<int64_t>> counts(rles.items.size());
  const bool valid = for_each_item(rles, threads, [&](const Item& item, size_t i) {
    std::vector<int64_t>& runs = counts[i];
    runs.reserve(item.length);
    read_item_runs(item, [&](int64_t run) { runs.push_back(run); });
  });
  if (!valid) return py::none();
  rle::Runs runs;
  for (const std::vector<int64_t>& mask_counts : counts) {
    runs.counts.insert(runs.counts.end(), mask_counts.begin(), mask_counts.end());
    runs.offsets.push_back(static_cast<int64_t>(runs.counts.size()));
  }
  std::vector<py::ssize_t> shape{height, width, n};
  if (rles.single) shape.pop_back();
  if (row_major) shape = {n, height, width};
  const bool large = static_cast<size_t>(bytes) > kZeroedBytes;
  py::array masks = large       ? py::array(zeros(shape, !row_major))
                    : row_major ? py::array(py::array_t<uint8_t>(shape))
                                : py::array(py::array_t<uint8_t, py::array::f_style>(shape));
  uint8_t* out = static_cast<uint8_t*>(masks.mutable_data());
  if (!large) std::fill(out, out + bytes, uint8_t{0});
  const rle::RunsView view{runs.counts.data(), static_cast<int64_t>(runs.counts.size()), runs.offsets.data(), n};
  without_gil([&] { rle::decode(view, height, width, !row_major, out, large ? threads : 1); }, large);
  return std::move(masks);
}

// Reads n flags from a list or tuple of ints and bools, or a 1-D bool or uint8 array. Returns false for anything else.
bool read_flags(const py::object& object, size_t n, std::vector<uint8_t>& flags) {
  if (PyList_CheckExact(object.ptr()) || PyTuple_CheckExact(object.ptr())) {
    const auto size = PySequence_Fast_GET_SIZE(object.ptr());
    if (static_cast<size_t>(size) != n) return false;
    for (Py_ssize_t i = 0; i < size; ++i) {
      PyObject* flag = PySequence_Fast_GET_ITEM(object.ptr(), i);
      if (!PyLong_CheckExact(flag) && !PyBool_Check(flag)) return false;  // only these are tested without user code
      flags.push_back(PyObject_IsTrue(flag) == 1);
    }
    return true;
  }
  if (!py::isinstance<py::array>(object)) return false;
  const py::array array = py::reinterpret_borrow<py::array>(object);
  const char kind = array.dtype().kind();
  if (array.ndim() != 1 || static_cast<size_t>(array.size()) != n || array.itemsize() != 1 ||
      (kind != 'u' && kind != 'b')) {
    return false;
  }
  for (size_t i = 0; i < n; ++i) flags.push_back(*static_cast<const uint8_t*>(array.data(i)) != 0);
  return true;
}

bool make_footprints(const Items& rles, int64_t threads, std::vector<rle::Footprint>& masks) {
  masks.resize(rles.items.size());
  return for_each_item(rles, threads, [&](const Item& item, size_t i) {
    masks[i] = rle::make_footprint(to_edges(item), std::max<int64_t>(1, item.height));
  });
}

py::object coco_iou(const py::object& dt, const py::object& gt, const py::object& iscrowd, int64_t threads) {
  Items rows, columns;
  const bool same = dt.is(gt);
  if (!read_items(dt.ptr(), rows, true) || rows.single || !rows.have_one_size()) return py::none();
  if (!same) {
    if (!read_items(gt.ptr(), columns, true) || columns.single || !columns.have_one_size() ||
        columns.items.front().height != rows.items.front().height ||
        columns.items.front().width != rows.items.front().width) {
      return py::none();
    }
  }
  const Items& other = same ? rows : columns;
  std::vector<uint8_t> flags;
  if (!read_flags(iscrowd, other.items.size(), flags)) return py::none();
  std::vector<rle::Footprint> row_masks, column_masks;
  if (!make_footprints(rows, threads, row_masks) || (!same && !make_footprints(columns, threads, column_masks))) {
    return py::none();
  }
  const bool* crowd = reinterpret_cast<const bool*>(flags.data());
  const std::vector<rle::Footprint>& others = same ? row_masks : column_masks;
  const bool large = rows.large() || others.size() * row_masks.size() > 1024;
  std::vector<double> result =
      without_gil([&] { return rle::iou(row_masks, others, crowd, large ? threads : 1); }, large);
  return to_array(std::move(result), rows.size(), other.size());
}

py::object coco_merge(const py::object& objects, bool intersect, int64_t threads) {
  Items rles;
  if (!read_items(objects.ptr(), rles) || rles.single || !rles.have_one_size()) return py::none();
  const Item& first = rles.items.front();
  std::vector<rle::Edges> masks(rles.items.size());
  const bool valid = for_each_item(rles, threads, [&](const Item& item, size_t i) { masks[i] = to_edges(item); });
  if (!valid) return py::none();
  if (rles.size() == 1) {  // returned unchanged, empty runs included
    return to_dict(first.height, first.width, py::bytes(reinterpret_cast<const char*>(first.text), first.length));
  }
  std::vector<uint8_t> text = to_text_bytes(rle::combine_all(std::move(masks), intersect), first.pixels());
  return to_dict(first.height, first.width, to_text(text, false));
}

// Returns the tuple (counts, offsets, heights, widths) of all masks, in one int64 array each.
py::object coco_runs(const py::object& objects) {
  Items rles;
  if (!read_items(objects.ptr(), rles)) return py::none();
  rle::Runs runs;
  runs.counts.reserve(rles.characters);
  std::vector<int64_t> heights, widths;
  try {
    for (const Item& item : rles.items) {
      read_item_runs(item, [&](int64_t run) { runs.counts.push_back(run); });
      runs.offsets.push_back(static_cast<int64_t>(runs.counts.size()));
      heights.push_back(item.height);
      widths.push_back(item.width);
    }
  } catch (const std::invalid_argument&) {
    return py::none();
  }
  return py::make_tuple(to_array(std::move(runs.counts)), to_array(std::move(runs.offsets)),
                        to_array(std::move(heights)), to_array(std::move(widths)));
}

}  // namespace

void bind_rle_dicts(py::module_& m) {
  const auto objects = py::arg("rles"), threads = py::arg("threads");
  m.def("coco_area", &coco_area, objects, threads);
  m.def("coco_to_bbox", &coco_to_bbox, objects, threads);
  m.def("coco_encode", &coco_encode, exact("masks"), py::arg("last"), py::arg("as_str"), threads);
  m.def("coco_decode", &coco_decode, objects, py::arg("row_major"), threads);
  m.def("coco_iou", &coco_iou, py::arg("dt"), py::arg("gt"), py::arg("iscrowd"), threads);
  m.def("coco_merge", &coco_merge, objects, py::arg("intersect"), threads);
  m.def("coco_runs", &coco_runs, objects);
}

}  // namespace fastsam::bindings
