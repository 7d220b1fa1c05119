#include "harness.h"

namespace quire::testing {
namespace {

void test_rotary(const KernelTable& table, Checker& check, Random& random) {
  for (RotaryStyle style : {RotaryStyle::neox, RotaryStyle::gptj})
    for (auto [head_dim, dims] : {std::pair<int64_t, int64_t>{64, 64}, {20, 20}, {64, 16}, {10, 6}, {128, 128}}) {
      const int64_t heads = 3, tokens = 4, stride = heads * head_dim + 7, max_len = 50;
      const std::vector<float> x = random.floats(tokens * stride), cos = random.floats(max_len * dims / 2),
                               sin = random.floats(max_len * dims / 2);
      const std::vector<int32_t> positions = {0, 49, 7, 7};
      std::vector<float> y(tokens * stride, kNaN);
      RotaryArgs r{.x = x.data(),
                   .x_stride = stride,
                   .heads = heads,
                   .head_dim = head_dim,
                   .dims = dims,
                   .style = style,
                   .positions = positions.data(),
                   .cos = cos.data(),
                   .sin = sin.data(),
                   .y = y.data(),
                   .y_stride = stride};
      run_in_pieces(table.rows.rotary, r, tokens);
      std::vector<float> in_place = x;
      r.x = r.y = in_place.data();
      run_in_pieces(table.rows.rotary, r, tokens);
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t h = 0; h < heads; ++h)
          for (int64_t i = 0; i < head_dim; ++i) {
            const float* in = &x[t * stride + h * head_dim];
            double want = in[i];
            if (i < dims) {
              const bool neox = style == RotaryStyle::neox;
              const int64_t pair = neox ? i % (dims / 2) : i / 2;
              const bool second = neox ? i >= dims / 2 : i % 2 == 1;
              const double a = neox ? in[pair] : in[2 * pair], b = neox ? in[pair + dims / 2] : in[2 * pair + 1];
              const double c = cos[positions[t] * (dims / 2) + pair], s = sin[positions[t] * (dims / 2) + pair];
              want = second ? b * c + a * s : a * c - b * s;
            }
            check.close(y[t * stride + h * head_dim + i], want, 3e-7, 0, "rotary");
            check.expect(y[t * stride + h * head_dim + i] == in_place[t * stride + h * head_dim + i],
                         "rotary in place");
          }
    }
}

void test_write(const KernelTable& table, Checker& check, Random& random) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (auto [k_dim, v_dim] : {std::pair<int64_t, int64_t>{64, 64}, {20, 12}, {13, 24}})
      for (bool rotate : {false, true}) {
        KvCache c{.data = nullptr,
                  .dtype = dtype,
                  .num_blocks = 4,
                  .kv_heads = 2,
                  .head_dim = k_dim,
                  .v_head_dim = v_dim,
                  .block_size = 16};
        AlignedBytes memory(kv_layer_bytes(c));
        c.data = memory.as();
        const int64_t tokens = 5, heads = 3, k_stride = 2 * k_dim + 1, v_stride = 2 * v_dim + 3, dims = k_dim / 2 * 2,
                      q_stride = heads * k_dim;
        const std::vector<float> k = random.floats(tokens * k_stride), v = random.floats(tokens * v_stride),
                                 q = random.floats(tokens * q_stride);
        const std::vector<float> cos = random.floats(40 * dims / 2), sin = random.floats(40 * dims / 2);
        const std::vector<int32_t> slots = {17, 0, -1, 63, 40}, positions = {3, 39, 2, 0, 17};
        std::vector<float> rotated_k(tokens * 2 * k_dim), rotated_q(tokens * q_stride), q_out(tokens * q_stride);
        RotaryArgs r{.x = q.data(),
                     .x_stride = q_stride,
                     .heads = heads,
                     .head_dim = k_dim,
                     .dims = dims,
                     .style = RotaryStyle::neox,
                     .positions = positions.data(),
                     .cos = cos.data(),
                     .sin = sin.data(),
                     .y = q_out.data(),
                     .y_stride = q_stride};
        CacheWriteArgs w{.cache = c,
                         .k = k.data(),
                         .k_stride = k_stride,
                         .v = v.data(),
                         .v_stride = v_stride,
                         .slots = slots.data(),
                         .rotary = rotate ? &r : nullptr};
        run_in_pieces(table.rows.cache_write, w, tokens);
        if (rotate) {
          RotaryArgs alone = r;
          alone.y = rotated_q.data();
          table.rows.rotary(alone, 0, tokens, nullptr);
          check.same_bits(q_out.data(), rotated_q.data(), tokens * q_stride, "q of the fused rotary");
          alone.x = k.data();
          alone.x_stride = k_stride;
          alone.heads = 2;
          alone.y = rotated_k.data();
          alone.y_stride = 2 * k_dim;
          table.rows.rotary(alone, 0, tokens, nullptr);
        }
        for (int64_t t = 0; t < tokens; ++t) {
          if (slots[t] < 0) continue;
          for (int64_t h = 0; h < 2; ++h) {
            const uint8_t* base =
                static_cast<const uint8_t*>(c.data) + (slots[t] / 16 * 2 + h) * kv_block_head_bytes(c);
            auto stored = [&](int64_t i) {
              uint16_t half;
              float full;
              std::memcpy(&half, base + i * 2, 2);
              if (dtype == DType::bf16) return from_bf16(half);
              if (dtype == DType::f16) return from_f16(half);
              std::memcpy(&full, base + i * 4, 4);
              return full;
            };
            for (int64_t d = 0; d < k_dim; ++d) {
              const float want = rotate ? rotated_k[t * 2 * k_dim + h * k_dim + d] : k[t * k_stride + h * k_dim + d];
              check.expect(stored(d * 16 + slots[t] % 16) == typed({want}, dtype).values[0], "key in the cache");
            }
            for (int64_t d = 0; d < v_dim; ++d)
              check.expect(stored(k_dim * 16 + slots[t] % 16 * v_dim + d) ==
                               typed({v[t * v_stride + h * v_dim + d]}, dtype).values[0],
                           "value in the cache");
          }
        }
        int64_t untouched = 0;  // memory was filled with 0xff: what is not a stored element still is
        for (int64_t i = 0; i < memory.size(); ++i) untouched += memory.as<uint8_t>()[i] == 0xff;
        check.expect(untouched >= memory.size() - 4 * 2 * (k_dim + v_dim) * dtype_bytes(dtype),
                     "nothing else was written");
      }
}

// Runs of neighbours at any offset, cut by blocks, by other sequences and by tokens without a slot, are written as
// single tokens are.
void test_runs(const KernelTable& table, Checker& check, Random& random) {
  const std::vector<int32_t> slots = {20, 21,  22,  23,  24,  25, 26, 27, 28, 29, 30, 31, 96, 97, 98,
                                      99, 100, 101, 102, 103, -1, 40, 41, 42, 43, 44, 45, 46, -1, 64,
                                      65, 66,  67,  68,  69,  70, 71, 73, 74, 75, 76, 77, 78, 79, 80};
  const auto tokens = static_cast<int64_t>(slots.size());
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (auto [k_dim, v_dim] : {std::pair<int64_t, int64_t>{64, 64}, {20, 12}, {13, 24}})
      for (bool rotate : {false, true}) {
        KvCache c{.data = nullptr,
                  .dtype = dtype,
                  .num_blocks = 8,
                  .kv_heads = 2,
                  .head_dim = k_dim,
                  .v_head_dim = v_dim,
                  .block_size = 16};
        AlignedBytes at_once(kv_layer_bytes(c)), one_by_one(kv_layer_bytes(c));
        const int64_t k_stride = 2 * k_dim + 1, v_stride = 2 * v_dim + 3, dims = k_dim / 2 * 2;
        const std::vector<float> k = random.floats(tokens * k_stride), v = random.floats(tokens * v_stride),
                                 q = random.floats(tokens * k_dim);
        const std::vector<float> cos = random.floats(tokens * dims / 2), sin = random.floats(tokens * dims / 2);
        std::vector<int32_t> positions(slots.size());
        for (size_t t = 0; t < positions.size(); ++t) positions[t] = static_cast<int32_t>(t * 7 % positions.size());
        std::vector<float> turned(tokens * k_dim);
        const RotaryArgs r{.x = q.data(),
                           .x_stride = k_dim,
                           .heads = 1,
                           .head_dim = k_dim,
                           .dims = dims,
                           .style = RotaryStyle::neox,
                           .positions = positions.data(),
                           .cos = cos.data(),
                           .sin = sin.data(),
                           .y = turned.data(),
                           .y_stride = k_dim};
        CacheWriteArgs w{.cache = c,
                         .k = k.data(),
                         .k_stride = k_stride,
                         .v = v.data(),
                         .v_stride = v_stride,
                         .slots = slots.data(),
                         .rotary = rotate ? &r : nullptr};
        w.cache.data = at_once.as();
        table.rows.cache_write(w, 0, tokens, nullptr);
        w.cache.data = one_by_one.as();
        for (int64_t t = 0; t < tokens; ++t) table.rows.cache_write(w, t, t + 1, nullptr);
        check.expect(
            std::memcmp(at_once.as<uint8_t>(), one_by_one.as<uint8_t>(), static_cast<size_t>(at_once.size())) == 0,
            "a run in the cache");
      }
}

void test_int8_write(const KernelTable& table, Checker& check, Random& random) {
  for (auto [k_dim, v_dim] : {std::pair<int64_t, int64_t>{64, 64}, {20, 12}, {13, 24}}) {
    KvCache c{.data = nullptr,
              .dtype = DType::i8,
              .num_blocks = 4,
              .kv_heads = 2,
              .head_dim = k_dim,
              .v_head_dim = v_dim,
              .block_size = 16};
    AlignedBytes memory(kv_layer_bytes(c));
    c.data = memory.as();
    const int64_t tokens = 6;
    std::vector<float> k = random.floats(tokens * 2 * k_dim, -3, 3), v = random.floats(tokens * 2 * v_dim, -3, 3);
    const std::vector<int32_t> slots = {17, 0, -1, 63, 40, 5};
    for (int64_t d = 0; d < k_dim; ++d) k[d] = 0.0f;                                        // token 0, head 0: zeros
    k[2 * k_dim + 3] = kNaN;                                                                // token 1, head 0
    v[2 * v_dim + v_dim + v_dim - 1] = -std::numeric_limits<float>::infinity();             // token 1, head 1
    for (int64_t d = 0; d < v_dim; ++d) v[3 * 2 * v_dim + d] *= 1e-44f;  // token 3, head 0: denormal
    for (int64_t d = 0; d < v_dim; ++d) v[5 * 2 * v_dim + d] = (d % 2 ? 0.5f : -1.5f) + static_cast<float>(d);  // ties
    v[5 * 2 * v_dim] = 127.0f;
    const CacheWriteArgs w{.cache = c,
                           .k = k.data(),
                           .k_stride = 2 * k_dim,
                           .v = v.data(),
                           .v_stride = 2 * v_dim,
                           .slots = slots.data(),
                           .rotary = nullptr};
    run_in_pieces(table.rows.cache_write, w, tokens);
    const QuantizedVectors keys = quantized(k, k_dim), values = quantized(v, v_dim);
    int64_t written = 0;
    for (int64_t t = 0; t < tokens; ++t) {
      if (slots[t] < 0) continue;
      for (int64_t h = 0; h < 2; ++h, ++written) {
        const auto* base = static_cast<const int8_t*>(c.data) + (slots[t] / 16 * 2 + h) * kv_block_head_bytes(c);
        const int64_t offset = slots[t] % 16, vector = t * 2 + h;
        for (int64_t d = 0; d < k_dim; ++d)
          check.expect(base[d * 16 + offset] == keys.q[vector * k_dim + d], "int8 key in the cache");
        for (int64_t d = 0; d < v_dim; ++d)
          check.expect(base[k_dim * 16 + offset * v_dim + d] == values.q[vector * v_dim + d],
                       "int8 value in the cache");
        float scales[2];
        std::memcpy(&scales[0], base + kv_block_head_elements(c) + offset * 4, 4);
        std::memcpy(&scales[1], base + kv_block_head_elements(c) + (16 + offset) * 4, 4);
        check.close(scales[0], keys.scales[vector], 0, 0, "scale of a key");
        check.close(scales[1], values.scales[vector], 0, 0, "scale of a value");
      }
    }
    int64_t untouched = 0;
    for (int64_t i = 0; i < memory.size(); ++i) untouched += memory.as<uint8_t>()[i] == 0xff;
    check.expect(untouched >= memory.size() - written * (k_dim + v_dim + 8), "nothing else was written");
  }
}

void test_half_rounding(const KernelTable& table, Checker& check) {
  // Ties, carries into the exponent, denormals, overflow: compared with rounding by arithmetic.
  std::vector<float> values = {0.0f,        -0.0f,      1.0f,       65504.0f,    65519.9f,      65520.0f,
                               1e9f,        -1e9f,      6e-8f,      2.98e-8f,    2.9802322e-8f, 3e-8f,
                               6.1e-5f,     6.0975e-5f, 1.0004883f, 1.0014648f,  2047.5f,       2048.5f,
                               0.99975586f, 1e-40f,     3.3e38f,    -3.4028e38f, 1.00390625f,   1.01171875f};
  Random random(3);
  while (values.size() < 4096)
    values.push_back(std::ldexp(random.uniform(-2, 2), static_cast<int>(random.below(50)) - 30));
  const int64_t count = static_cast<int64_t>(values.size());
  for (DType dtype : {DType::bf16, DType::f16}) {
    KvCache c{.data = nullptr,
              .dtype = dtype,
              .num_blocks = 1,
              .kv_heads = 1,
              .head_dim = 8,
              .v_head_dim = count,
              .block_size = 16};
    AlignedBytes memory(kv_layer_bytes(c));
    c.data = memory.as();
    const std::vector<float> k(8, 0.0f);
    const int32_t slot = 0;
    CacheWriteArgs w{.cache = c,
                     .k = k.data(),
                     .k_stride = 8,
                     .v = values.data(),
                     .v_stride = count,
                     .slots = &slot,
                     .rotary = nullptr};
    table.rows.cache_write(w, 0, 1, nullptr);
    const Typed want = typed(values, dtype);
    check.expect(std::memcmp(memory.as<uint8_t>() + 8 * 16 * 2, want.bytes.data(), want.bytes.size()) == 0,
                 std::string("rounding to ") + dtype_name(dtype));
  }
}

}  // namespace

void test_cache(const KernelTable& table, Checker& check) {
  Random random(11);
  test_rotary(table, check, random);
  test_write(table, check, random);
  test_runs(table, check, random);
  test_int8_write(table, check, random);
  test_half_rounding(table, check);
}

}  // namespace quire::testing
