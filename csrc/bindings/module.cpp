// quire_cpu._native: the plan executor for Python. Everything that waits or computes releases the GIL.
#include "../plan/machine_limits.h"
#include "../plan/step_queue.h"
#include "arrays.h"

using namespace nanobind::literals;

namespace quire::bindings {

namespace {

struct Segments {
  std::vector<RowSegment> rows;

  explicit Segments(const std::vector<std::pair<AnyArray, std::string>>& arrays) {
    for (const auto& [array, dtype] : arrays) rows.push_back(to_segment(array, dtype));
  }
};

// temperature, top_k, top_p, min_p, seed, sequence_index, position, each [R]
using FloatArray = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using DrawArrays = std::tuple<FloatArray, Int32Array, FloatArray, FloatArray,
                              nb::ndarray<const uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>,
                              nb::ndarray<const uint32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>, Int32Array>;

std::vector<DrawParams> to_draws(const DrawArrays& arrays) {
  const auto& [temperature, top_k, top_p, min_p, seed, sequence_index, position] = arrays;
  std::vector<DrawParams> draws(temperature.size());
  for (const size_t size :
       {top_k.size(), top_p.size(), min_p.size(), seed.size(), sequence_index.size(), position.size()})
    if (size != draws.size()) throw std::invalid_argument("sampling arrays differ in length");
  for (size_t r = 0; r < draws.size(); ++r)
    draws[r] = {temperature.data()[r], top_k.data()[r],          top_p.data()[r],   min_p.data()[r],
                seed.data()[r],        sequence_index.data()[r], position.data()[r]};
  return draws;
}

std::unique_ptr<StepInput> to_input(const Int32Array& token_ids, const Int32Array& query_start_loc,
                                    const Int32Array& num_computed, const Int32Array& prev_row,
                                    const std::optional<Int32Array>& positions, const Int32Array& logits_indices,
                                    const std::vector<std::pair<Int32Array, std::optional<Int32Array>>>& groups,
                                    const Int32Array& sampled_rows, const Int32Array& returned_rows,
                                    const std::optional<DrawArrays>& draws) {
  auto input = std::make_unique<StepInput>();
  input->token_ids = to_vector(token_ids);
  input->query_start_loc = to_vector(query_start_loc);
  input->num_computed = to_vector(num_computed);
  input->prev_row = to_vector(prev_row);
  if (positions) input->positions = to_vector(*positions);
  input->logits_indices = to_vector(logits_indices);
  input->sampled_rows = to_vector(sampled_rows);
  input->returned_rows = to_vector(returned_rows);
  if (draws) input->draws = to_draws(*draws);
  for (const auto& [tables, copies] : groups) {
    if (tables.ndim() != 2) throw std::invalid_argument("block_tables must be [S, B]");
    GroupInput group;
    group.block_tables = to_vector(tables);
    group.blocks_per_seq = static_cast<int64_t>(tables.shape(1));
    if (copies) group.copies = to_vector(*copies);
    input->groups.push_back(std::move(group));
  }
  return input;
}

template <class T>
nb::capsule owner(T* array) {
  return nb::capsule(array, [](void* p) noexcept { delete[] static_cast<T*>(p); });
}

// (tokens int32 [R] as bytes, logits float32 [rows, vocab] or None where no row was asked for, error text or "").
// Not arrays where that can be avoided: what Python touches between two steps has left the caches.
nb::tuple to_result(std::unique_ptr<StepOutput> output) {
  const nb::bytes tokens(reinterpret_cast<const char*>(output->tokens.data()), output->tokens.size() * sizeof(int32_t));
  if (!output->logits_rows) return nb::make_tuple(tokens, nb::none(), output->error);
  float* logits = output->logits.release();
  return nb::make_tuple(
      tokens,
      nb::ndarray<nb::numpy, float, nb::ndim<2>>(
          logits, {static_cast<size_t>(output->logits_rows), static_cast<size_t>(output->vocab)}, owner(logits)),
      output->error);
}

using Page = nb::ndarray<nb::c_contig, nb::device::cpu>;
using ConstPage = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

template <class Array>
void* page_data(const std::optional<Array>& page) {
  return page ? const_cast<void*>(static_cast<const void*>(page->data())) : nullptr;
}

void bind_plan(nb::module_& m) {
  nb::class_<Plan>(m, "Plan")
      .def(
          "__init__",
          [](Plan* self, const std::string& kernels, int threads, bool poison, const std::string& kv_dtype,
             int64_t block_size, int64_t max_tokens, int64_t max_seqs, int64_t max_logits, int64_t max_len,
             int64_t vocab_size) {
            new (self) Plan({kernels,
                             threads,
                             poison,
                             dtype_named(kv_dtype),
                             block_size,
                             {max_tokens, max_seqs, max_logits, max_len, vocab_size}});
          },
          "kernels"_a, "threads"_a, "poison"_a, "kv_dtype"_a, "block_size"_a, "max_tokens"_a, "max_seqs"_a,
          "max_logits"_a, "max_len"_a, "vocab_size"_a)
      .def(
          "add_linear",
          [](Plan& self, const std::string& format, int64_t n, int64_t k, int64_t group_size, bool has_zeros) {
            return self.weights().add_linear(format_named(format), n, k, group_size, has_zeros);
          },
          "format"_a, "n"_a, "k"_a, "group_size"_a = 0, "has_zeros"_a = false)
      .def("add_vector", [](Plan& self, int64_t size) { return self.weights().add_vector(size); })
      .def("add_table", [](Plan& self, const std::string& dtype, int64_t rows,
                           int64_t dim) { return self.weights().add_table(dtype_named(dtype), rows, dim); })
      .def(
          "add_rotary",
          [](Plan& self, nb::ndarray<const float, nb::ndim<2>, nb::c_contig> cos,
             nb::ndarray<const float, nb::ndim<2>, nb::c_contig> sin) {
            if (cos.shape(0) != sin.shape(0) || cos.shape(1) != sin.shape(1))
              throw std::invalid_argument("cos and sin differ in shape");
            const auto rows = static_cast<int64_t>(cos.shape(0));
            const int64_t table =
                self.weights().add_rotary(self.limits().max_len, 2 * static_cast<int64_t>(cos.shape(1)));
            self.weights().extend_rotary(table, rows, cos.data(), sin.data());
            return table;
          },
          "cos"_a, "sin"_a, "A table of max_len rows, of which the first are given.")
      .def(
          "extend_rotary",
          [](Plan& self, int64_t table, nb::ndarray<const float, nb::ndim<2>, nb::c_contig> cos,
             nb::ndarray<const float, nb::ndim<2>, nb::c_contig> sin) {
            const RotaryTable& known = self.weights().rotary(table);
            for (const auto& rows : {cos, sin})
              if (rows.shape(0) != cos.shape(0) || 2 * static_cast<int64_t>(rows.shape(1)) != known.dims)
                throw std::invalid_argument("rows do not fit the rotary table");
            self.weights().extend_rotary(table, static_cast<int64_t>(cos.shape(0)), cos.data(), sin.data());
          },
          "table"_a, "cos"_a, "sin"_a, "The next rows of a table, before a step needs them.")
      .def("add_group",
           [](Plan& self, int64_t pool, int64_t layers, int64_t kv_heads, int64_t head_dim, int64_t v_head_dim) {
             return self.kv().add_group(pool, layers, kv_heads, head_dim, v_head_dim);
           })
      .def(
          "add_op",
          [](Plan& self, const std::string& op, bool head, const nb::kwargs& fields) {
            self.add_op(to_fields(op, fields), head);
          },
          "op"_a, "head"_a, "fields"_a)
      .def("set_logits", &Plan::set_logits)
      .def("prepare", &Plan::prepare)
      .def("pack_linear",
           [](Plan& self, int64_t index, const std::vector<std::pair<AnyArray, std::string>>& arrays) {
             const Segments segments(arrays);
             nb::gil_scoped_release release;
             self.weights().pack_linear(index, segments.rows, nullptr, self.pool());
           })
      .def(
          "pack_quantized",
          [](Plan& self, int64_t index, const Int8Matrix& values, const FloatMatrix& scales,
             const std::optional<FloatMatrix>& zeros) {
            const QuantizedRows rows(self.weights().linear(index), values, scales, zeros);
            nb::gil_scoped_release release;
            self.weights().pack_linear(index, {rows.segment}, &rows.quant, self.pool());
          },
          "index"_a, "values"_a, "scales"_a, "zeros"_a.none())
      .def(
          "unpack_linear",
          [](Plan& self, int64_t index, nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu> out) {
            const PackedLinear& weight = self.weights().linear(index);
            if (!weight.data || static_cast<int64_t>(out.shape(0)) != weight.n ||
                static_cast<int64_t>(out.shape(1)) != weight.k)
              throw std::invalid_argument("the matrix is not packed, or out has another shape");
            self.kernels().linear[index_of(weight.format)].unpack(weight, 0, weight.n, out.data());
          },
          "what the packed matrix stands for, in float32")
      .def("fill_vector",
           [](Plan& self, int64_t index, const AnyArray& array, const std::string& dtype) {
             if (array.ndim() != 1 || (array.size() > 1 && array.stride(0) != 1))
               throw std::invalid_argument("a vector must be 1-D and contiguous");
             self.weights().fill_vector(index, array.data(), dtype_named(dtype), static_cast<int64_t>(array.size()));
           })
      .def("fill_table",
           [](Plan& self, int64_t index, const std::vector<std::pair<AnyArray, std::string>>& arrays) {
             const Segments segments(arrays);
             nb::gil_scoped_release release;
             self.weights().fill_table(index, segments.rows, self.pool());
           })
      .def("allocate_kv", &Plan::allocate_kv, "blocks_per_pool"_a, "ahead_bytes"_a = 0)
      .def(
          "read_blocks",
          [](Plan& self, int64_t group, const Int32Array& ids, Page k, Page v, std::optional<Page> k_scale,
             std::optional<Page> v_scale) {
            const std::vector<int32_t> blocks = to_vector(ids);
            const HostPages pages{k.data(), v.data(), page_data(k_scale), page_data(v_scale)};
            nb::gil_scoped_release release;
            self.kv().read_blocks(group, blocks.data(), static_cast<int64_t>(blocks.size()), pages, self.pool());
          },
          "group"_a, "ids"_a, "k"_a, "v"_a, "k_scale"_a.none() = nb::none(), "v_scale"_a.none() = nb::none())
      .def(
          "write_blocks",
          [](Plan& self, int64_t group, const Int32Array& ids, ConstPage k, ConstPage v,
             std::optional<ConstPage> k_scale, std::optional<ConstPage> v_scale) {
            const std::vector<int32_t> blocks = to_vector(ids);
            const HostPages pages{const_cast<void*>(k.data()), const_cast<void*>(v.data()), page_data(k_scale),
                                  page_data(v_scale)};
            nb::gil_scoped_release release;
            self.kv().write_blocks(group, blocks.data(), static_cast<int64_t>(blocks.size()), pages, self.pool());
          },
          "group"_a, "ids"_a, "k"_a, "v"_a, "k_scale"_a.none() = nb::none(), "v_scale"_a.none() = nb::none())
      .def("set_profiling", &Plan::set_profiling)
      .def("take_profile", &Plan::take_profile)
      .def("take_step_times",
           [](Plan& self) {
             std::vector<std::tuple<double, double, double>> times;
             for (const Plan::StepTimes& step : self.take_step_times())
               times.emplace_back(step.begin, step.end, step.ops);
             return times;
           })
      .def_prop_ro("kernels", [](const Plan& self) { return self.kernels().isa; })
      .def_prop_ro("num_threads", [](Plan& self) { return self.pool().num_threads(); })
      .def_prop_ro("ops", &Plan::ops)
      .def_prop_ro("panel_columns",
                   [](const Plan& self) {
                     return self.kernels().linear[index_of(WeightFormat::f32)].layout(1, 1, 0, false).panel_columns;
                   })
      .def("write_packed",
           [](Plan& self, const std::string& path) {
             nb::gil_scoped_release release;
             self.weights().write_packed(path, self.pool());
           })
      .def("map_packed",
           [](Plan& self, const std::string& path) {
             nb::gil_scoped_release release;
             self.weights().map_packed(path, self.pool());
           })
      .def_prop_ro("weight_bytes", [](Plan& self) { return self.weights().weight_bytes(); })
      .def_prop_ro("constant_bytes", [](Plan& self) { return self.weights().constant_bytes(); })
      .def_prop_ro("activation_bytes", &Plan::activation_bytes)
      .def_prop_ro("populated_bytes", &Plan::populated_bytes)
      .def_prop_ro("kv_bytes", [](Plan& self) { return self.kv().bytes(); });
}

void bind_queue(nb::module_& m) {
  nb::class_<StepQueue>(m, "StepQueue")
      .def(nb::init<Plan&>(), nb::keep_alive<1, 2>())
      .def(
          "submit",
          [](StepQueue& self, const Int32Array& token_ids, const Int32Array& query_start_loc,
             const Int32Array& num_computed, const Int32Array& prev_row, const std::optional<Int32Array>& positions,
             const Int32Array& logits_indices,
             const std::vector<std::pair<Int32Array, std::optional<Int32Array>>>& groups,
             const Int32Array& sampled_rows, const Int32Array& returned_rows, const std::optional<DrawArrays>& draws) {
            return self.submit(to_input(token_ids, query_start_loc, num_computed, prev_row, positions, logits_indices,
                                        groups, sampled_rows, returned_rows, draws));
          },
          "token_ids"_a, "query_start_loc"_a, "num_computed"_a, "prev_row"_a, "positions"_a.none(), "logits_indices"_a,
          "groups"_a, "sampled_rows"_a, "returned_rows"_a, "draws"_a.none())
      .def("wait",
           [](StepQueue& self, int64_t number) {
             std::unique_ptr<StepOutput> output;
             {
               nb::gil_scoped_release release;
               output = self.wait(number);
             }
             return to_result(std::move(output));
           })
      .def("provide_tokens", [](StepQueue& self, int64_t number,
                                const Int32Array& tokens) { self.provide_tokens(number, to_vector(tokens)); })
      .def("fail", &StepQueue::fail)
      .def("close", &StepQueue::close, nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace

NB_MODULE(_native, m) {
  nb::enum_<Space>(m, "Space")
      .value("arena", Space::arena)
      .value("token_ids", Space::token_ids)
      .value("positions", Space::positions)
      .value("logits_indices", Space::logits_indices);
  nb::enum_<RowSymbol>(m, "RowSymbol").value("T", RowSymbol::T).value("L", RowSymbol::L);
  nb::class_<Operand>(m, "Operand")
      .def(
          "__init__",
          [](Operand* self, Space space, int64_t offset_bytes, int64_t row_stride, RowSymbol rows,
             int64_t rows_per_symbol,
             int64_t width) { new (self) Operand{space, offset_bytes, row_stride, rows, rows_per_symbol, width}; },
          "space"_a, "offset_bytes"_a, "row_stride"_a, "rows"_a, "rows_per_symbol"_a, "width"_a)
      .def_ro("space", &Operand::space)
      .def_ro("offset_bytes", &Operand::offset_bytes)
      .def_ro("row_stride", &Operand::row_stride)
      .def_ro("rows", &Operand::rows)
      .def_ro("rows_per_symbol", &Operand::rows_per_symbol)
      .def_ro("width", &Operand::width);
  bind_plan(m);
  bind_queue(m);
  m.def("op_names", &op_names);
  m.def(
      "measure_limits",
      [](int num_threads, const std::string& kernels) {
        const MachineLimits limits = measure_limits(num_threads, kernels);
        return std::make_tuple(limits.read_bytes_per_s, limits.single_stream_bytes_per_s, limits.flops_per_s,
                               limits.bf16_flops_per_s, limits.int8_ops_per_s);
      },
      "num_threads"_a, "kernels"_a = "", nb::call_guard<nb::gil_scoped_release>(),
      "(bytes read per second by four streams a thread, by one; operations per second in float32, bfloat16, int8)");
  m.def("available_kernels", [] {
    std::vector<std::string> names;
    for (const std::string_view name : available_kernels()) names.emplace_back(name);
    return names;
  });
}

}  // namespace quire::bindings
