// A plan run step by step: bits do not depend on chunks, threads or slices; wrong steps are refused.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>

#include "expect.h"
#include "small_model.h"

namespace quire::testing {

namespace {

std::vector<int32_t> prompt() {
  std::vector<int32_t> tokens(41);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * i * 7 % kVocab);
  return tokens;
}

std::vector<float> logits_in_chunks(Plan& plan, const std::vector<size_t>& lengths) {
  const std::vector<int32_t> tokens = prompt();
  std::vector<float> logits;
  size_t at = 0;
  for (const size_t length : lengths) {
    const auto begin = tokens.begin() + static_cast<int64_t>(at);
    const auto input = chunk({begin, begin + static_cast<int64_t>(length)}, static_cast<int32_t>(at));
    StepOutput output;
    plan.run(*input, output);
    logits.insert(logits.end(), output.logits.get(), output.logits.get() + output.logits_rows * output.vocab);
    at += length;
  }
  return logits;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void bits_do_not_depend_on_the_cut(const std::string& kernels, DType dtype) {
  const auto plan = small_model(kernels, 3, dtype);
  const std::vector<float> whole = logits_in_chunks(*plan, {41});
  expect(whole.size() == 41 * kVocab, kernels + ": logits of every row");
  bool finite = true;
  for (const float value : whole) finite = finite && std::isfinite(value);
  expect(finite, kernels + ": no NaN of the poisoned memory leaks");
  expect(same_bits(whole, logits_in_chunks(*plan, std::vector<size_t>(41, 1))), kernels + ": one token a step");
  expect(same_bits(whole, logits_in_chunks(*plan, {7, 16, 1, 2, 15})), kernels + ": chunks");
  expect(same_bits(whole, logits_in_chunks(*small_model(kernels, 1, dtype), {41})), kernels + ": one thread");
}

void greedy_takes_the_first_of_the_largest() {
  ThreadPool pool(3);
  std::vector<float> logits(3 * 20000, -5.0f);
  logits[17000] = logits[9000] = 2.0f;
  logits[20000 + 3] = std::nanf("");
  for (int64_t i = 0; i < 20000; ++i) logits[static_cast<size_t>(40000 + i)] = -INFINITY;
  logits[19000] = -INFINITY;
  std::vector<GreedyPart> work, best;
  largest_logits(logits.data(), 20000, 20000, {0, 1, 2, 0}, pool, work, best);
  expect(best[0].index == 9000 && best[3].index == 9000, "the first of equal logits");
  expect(best[0].finite && !best[1].finite && best[2].finite, "NaN is told, -inf is allowed");
  expect(best[2].index == -1, "nothing to draw from -inf alone");
  logits[20000 + 3] = INFINITY;
  largest_logits(logits.data(), 20000, 20000, {1}, pool, work, best);
  expect(!best[0].finite, "+inf is told");
}

// Against the plain definition: every token's noise, the filters by sorting.
void draws_are_those_of_the_definition() {
  const KernelTable& kernels = select_kernels();
  DrawWork work;
  uint64_t state = 9;
  const auto next = [&] {
    return static_cast<float>((state = state * 6364136223846793005ull + 1442695040888963407ull) >> 40) / 16777216.0f;
  };
  for (int round = 0; round < 300; ++round) {
    const int64_t vocab = 50 + 37 * round;
    std::vector<float> logits(static_cast<size_t>(vocab));
    for (float& value : logits) value = (round % 3 ? 12.0f : 1.0f) * next() * next();
    if (round % 5 == 0) logits[7] = -INFINITY;
    DrawParams params{0.3f + next(),
                      round % 2 ? round % 60 : 0,
                      round % 4 == 1 ? 0.3f + 0.69f * next() : 1.0f,
                      round % 7 == 3 ? 0.05f : 0.0f,
                      state,
                      static_cast<uint32_t>(round),
                      round * 3};
    const float largest = *std::max_element(logits.begin(), logits.end());
    std::vector<float> scores;
    for (const float value : logits) scores.push_back((value - largest) / params.temperature);
    std::vector<float> falling = scores;
    std::sort(falling.begin(), falling.end(), std::greater<>());
    float limit = params.min_p > 0 ? std::log(params.min_p) : -INFINITY;
    if (params.top_k > 0 && params.top_k < vocab)
      limit = std::max(limit, falling[static_cast<size_t>(params.top_k - 1)]);
    if (params.top_p < 1.0f) {
      falling.erase(std::remove_if(falling.begin(), falling.end(), [&](float s) { return s < limit; }), falling.end());
      double total = 0.0, mass = 0.0;
      for (const float score : falling) total += static_cast<double>(std::exp(score));
      for (const float score : falling) {
        mass += static_cast<double>(std::exp(score));
        if (mass < static_cast<double>(params.top_p) * total) continue;
        limit = std::max(limit, score);
        break;
      }
    }
    int32_t expected = -1;
    float best = -INFINITY;
    for (int32_t v = 0; v < vocab; ++v) {
      const float total = scores[static_cast<size_t>(v)] + gumbel_noise(params, v, kernels);
      if (scores[static_cast<size_t>(v)] >= limit && total > best) best = total, expected = v;
    }
    const auto likeliest = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    expect(draw_token(logits.data(), vocab, largest, likeliest, params, kernels, work) == expected,
           "draw of round " + std::to_string(round));
  }
}

void wrong_steps_are_refused() {
  const auto plan = small_model("", 2, DType::f32);
  const auto attempt = [&](auto&& change) {
    const auto input = chunk({1, 2, 3}, 0);
    change(*input);
    StepOutput output;
    plan->run(*input, output);
  };
  expect_error([&] { attempt([](StepInput& s) { s.token_ids[1] = kVocab; }); }, "token id 40");
  expect_error([&] { attempt([](StepInput& s) { s.token_ids[1] = -1; }); }, "token id -1");
  expect_error([&] { attempt([](StepInput& s) { s.query_start_loc = {0, 2}; }); }, "does not span");
  expect_error([&] { attempt([](StepInput& s) { s.num_computed = {62}; }); }, "length is 65");
  expect_error([&] { attempt([](StepInput& s) { s.logits_indices[0] = 3; }); }, "logits index 3");
  expect_error([&] { attempt([](StepInput& s) { s.returned_rows[0] = 3; }); }, "row 3");
  expect_error([&] { attempt([](StepInput& s) { s.groups.clear(); }); }, "groups 0");
  expect_error([&] { attempt([](StepInput& s) { s.groups[0].block_tables[0] = kBlocks; }); }, "block id 12");
  expect_error([&] { attempt([](StepInput& s) { s.groups[0].block_tables.pop_back(); }); }, "block_tables");
  expect_error([&] { attempt([](StepInput& s) { s.groups[0].copies = {0, kBlocks}; }); }, "block id 12");
  expect_error([&] { attempt([](StepInput& s) { s.positions = {0, 1, kMaxLen}; }); }, "position 64");
  attempt([](StepInput&) {});
}

void rows_of_absent_blocks_are_not_stored() {
  const auto plan = small_model("", 2, DType::f32);
  auto input = chunk(prompt(), 0);
  input->groups[0].block_tables[1] = -1;  // as a block that left a window: never written, never read
  input->logits_indices = {0};
  input->returned_rows = {0};
  input->sampled_rows = {0};
  StepOutput output;
  plan->run(*input, output);
  expect(std::isfinite(output.logits[0]), "the first row sees only its own block");
}

void pages_survive_a_round_trip() {
  const auto plan = small_model("", 2, DType::bf16);
  logits_in_chunks(*plan, {41});
  const size_t page = kBlockSize * kKvHeads * kHeadDim;
  std::vector<uint16_t> k(3 * page), v(3 * page), k2(k.size()), v2(v.size());
  const int32_t from[] = {3, 0, 7}, to[] = {8, 9, 10}, outside[] = {12};
  const HostPages first{k.data(), v.data()}, second{k2.data(), v2.data()};
  plan->kv().read_blocks(0, from, 3, first, plan->pool());
  plan->kv().write_blocks(0, to, 3, first, plan->pool());
  plan->kv().read_blocks(0, to, 3, second, plan->pool());
  expect(k == k2 && v == v2, "pages written are the pages read");
  expect_error([&] { plan->kv().read_blocks(0, outside, 1, first, plan->pool()); }, "block id 12");
  const HostPages scaled{k.data(), v.data(), k2.data(), v2.data()};
  expect_error([&] { plan->kv().read_blocks(0, from, 3, scaled, plan->pool()); }, "scales exactly when");
}

void int8_pages_survive_a_round_trip() {
  const auto plan = small_model("", 2, DType::i8);
  logits_in_chunks(*plan, {41});
  const size_t rows = kBlockSize * kKvHeads * 3;
  std::vector<int8_t> k(rows * kHeadDim), v(k.size()), k2(k.size()), v2(k.size());
  std::vector<uint32_t> k_scale(rows), v_scale(rows), k_scale2(rows), v_scale2(rows);
  const int32_t from[] = {3, 0, 7}, to[] = {8, 9, 10};
  const HostPages first{k.data(), v.data(), k_scale.data(), v_scale.data()},
      second{k2.data(), v2.data(), k_scale2.data(), v_scale2.data()};
  plan->kv().read_blocks(0, from, 3, first, plan->pool());
  plan->kv().write_blocks(0, to, 3, first, plan->pool());
  plan->kv().read_blocks(0, to, 3, second, plan->pool());
  expect(k == k2 && v == v2 && k_scale == k_scale2 && v_scale == v_scale2, "int8 pages written are the pages read");
  for (size_t row = 0; row < kBlockSize * kKvHeads; ++row) {  // the first block is full
    int top = 0;
    for (size_t i = 0; i < kHeadDim; ++i) top = std::max(top, std::abs(static_cast<int>(k[row * kHeadDim + i])));
    expect(top == 127, "the largest element of a key is 127 times its scale");
  }
  expect_error([&] { plan->kv().read_blocks(0, from, 3, {k.data(), v.data()}, plan->pool()); }, "scales exactly when");
}

void weights_of_wrong_size_are_refused() {
  ThreadPool pool(1);
  WeightStore store(select_kernels());
  const std::vector<float> numbers(64, 1.0f);
  const int64_t linear = store.add_linear(WeightFormat::f32, 4, 8), vector = store.add_vector(8);
  expect_error([&] { store.pack_linear(linear, {RowSegment{numbers.data(), DType::f32, 8, 3}}, nullptr, pool); },
               "4 rows was given 3");
  expect_error([&] { store.fill_vector(vector, numbers.data(), DType::f32, 7); }, "8 elements was given 7");
}

void a_format_without_kernels_is_refused_by_name() {
  KernelTable kernels = select_kernels("portable");
  kernels.linear[index_of(WeightFormat::int4)] = {};
  WeightStore store(kernels);
  store.add_linear(WeightFormat::int8, 4, 64, 32);
  expect_error([&] { store.add_linear(WeightFormat::int4, 4, 64, 32); }, "no kernels for int4 weights in portable");
  expect_error([&] { store.add_linear(WeightFormat::int8, 4, 64, 24); }, "groups of 24");
  expect_error([&] { store.add_linear(WeightFormat::int8, 4, 64, 32, true); }, "with zero points");
}

void halves_are_converted_exactly() {
  ThreadPool pool(1);
  WeightStore store(select_kernels());
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  const int64_t table = store.add_table(DType::f16, 1, 65536);
  std::vector<float> wide(all.size());
  for (size_t i = 0; i < all.size(); ++i) wide[i] = to_float(all.data(), DType::f16, static_cast<int64_t>(i));
  store.fill_table(table, {RowSegment{wide.data(), DType::f32, 65536, 1}}, pool);
  bool same = true;
  for (size_t i = 0; i < all.size(); ++i)
    same = same && (std::isnan(wide[i]) || store.table(table).data.as<uint16_t>()[i] == all[i]);
  expect(same, "float16 to float32 and back, all values");
  expect(to_float(all.data(), DType::f16, 0x3c00) == 1.0f && to_float(all.data(), DType::f16, 1) == 0x1p-24f,
         "float16 values");
}

}  // namespace

void test_plan() {
  for (const std::string_view kernels : available_kernels()) {
    bits_do_not_depend_on_the_cut(std::string(kernels), DType::f32);
    bits_do_not_depend_on_the_cut(std::string(kernels), DType::bf16);
    bits_do_not_depend_on_the_cut(std::string(kernels), DType::i8);
  }
  greedy_takes_the_first_of_the_largest();
  draws_are_those_of_the_definition();
  wrong_steps_are_refused();
  rows_of_absent_blocks_are_not_stored();
  pages_survive_a_round_trip();
  int8_pages_survive_a_round_trip();
  weights_of_wrong_size_are_refused();
  a_format_without_kernels_is_refused_by_name();
  halves_are_converted_exactly();
}

}  // namespace quire::testing
