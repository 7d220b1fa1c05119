#include "weight_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace quire {

namespace {

constexpr uint64_t kMagic = 0x314b505249555121;  // "!QUIRPK1"
constexpr int64_t kPage = 4096;
constexpr int64_t kBlock = int64_t{1} << 20;  // bytes of one checksum; blocks are summed in parallel

struct Header {
  uint64_t magic = kMagic;
  int64_t num_pieces = 0;
  int64_t file_bytes = 0;
  uint64_t table_checksum = 0;
};

struct Entry {
  int64_t offset = 0;
  int64_t bytes = 0;
  uint64_t checksum = 0;
};

int64_t padded(int64_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Eight independent multiply-rotate chains over 64-bit words: as fast as memory, and any flipped bit changes it.
uint64_t checksum(const std::byte* data, int64_t bytes) {
  constexpr uint64_t kPrime = 0x9e3779b185ebca87;
  uint64_t lanes[8];
  for (uint64_t lane = 0; lane < 8; ++lane) lanes[lane] = (lane + 1) * kPrime;
  int64_t i = 0;
  for (; i + 64 <= bytes; i += 64) {
    uint64_t words[8];
    std::memcpy(words, data + i, sizeof words);
    for (int lane = 0; lane < 8; ++lane) lanes[lane] = std::rotl((lanes[lane] ^ words[lane]) * kPrime, 29);
  }
  uint64_t sum = static_cast<uint64_t>(bytes);
  for (; i < bytes; ++i) sum = (sum ^ static_cast<uint64_t>(data[i])) * kPrime;
  for (const uint64_t lane : lanes) sum = std::rotl((sum ^ lane) * kPrime, 31);
  return sum;
}

uint64_t piece_checksum(const std::byte* data, int64_t bytes, ThreadPool& pool) {
  const int64_t blocks = (bytes + kBlock - 1) / kBlock;
  std::vector<uint64_t> sums(static_cast<size_t>(blocks));
  pool.parallel_for(blocks, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b)
      sums[static_cast<size_t>(b)] = checksum(data + b * kBlock, std::min(kBlock, bytes - b * kBlock));
  });
  return checksum(reinterpret_cast<const std::byte*>(sums.data()), blocks * 8);
}

[[noreturn]] void fail(const std::string& path, const std::string& what) {
  throw std::runtime_error(path + ": " + what);
}

class File {
 public:
  File(const std::string& path, int flags) : path_(path), descriptor_(open(path.c_str(), flags | O_CLOEXEC, 0600)) {
    if (descriptor_ < 0) fail(path_, std::strerror(errno));
  }
  ~File() { close(descriptor_); }
  int descriptor() const { return descriptor_; }

  // False when the file ends before, or cannot be read.
  bool read_at(int64_t offset, void* data, int64_t bytes) const {
    char* to = static_cast<char*>(data);
    while (bytes > 0) {
      const ssize_t count = pread(descriptor_, to, static_cast<size_t>(bytes), offset);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return false;
      to += count;
      offset += count;
      bytes -= count;
    }
    return true;
  }

  void write_at(int64_t offset, const void* data, int64_t bytes) const {
    const char* from = static_cast<const char*>(data);
    while (bytes > 0) {
      const ssize_t written = pwrite(descriptor_, from, static_cast<size_t>(bytes), offset);
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) fail(path_, written < 0 ? std::strerror(errno) : "nothing could be written");
      from += written;
      offset += written;
      bytes -= written;
    }
  }

 private:
  const std::string& path_;
  int descriptor_;
};

}  // namespace

void write_weight_file(const std::string& path, const std::vector<WeightPiece>& pieces, ThreadPool& pool) {
  const File file(path, O_WRONLY | O_CREAT | O_EXCL);
  std::vector<Entry> table;
  int64_t offset = padded(static_cast<int64_t>(sizeof(Header) + pieces.size() * sizeof(Entry)));
  for (const WeightPiece& piece : pieces) {
    table.push_back({offset, piece.bytes, piece_checksum(piece.data, piece.bytes, pool)});
    file.write_at(offset, piece.data, piece.bytes);
    offset += padded(piece.bytes);
  }
  const auto table_bytes = static_cast<int64_t>(table.size() * sizeof(Entry));
  const Header header{kMagic, static_cast<int64_t>(table.size()), offset,
                      checksum(reinterpret_cast<const std::byte*>(table.data()), table_bytes)};
  if (ftruncate(file.descriptor(), offset) != 0) fail(path, std::strerror(errno));
  file.write_at(static_cast<int64_t>(sizeof header), table.data(), table_bytes);
  file.write_at(0, &header, sizeof header);
  if (fsync(file.descriptor()) != 0) fail(path, std::strerror(errno));
}

WeightCopy::WeightCopy(const std::string& path, const std::vector<int64_t>& bytes, ThreadPool& pool) {
  const File file(path, O_RDONLY);
  struct stat status{};
  if (fstat(file.descriptor(), &status) != 0) fail(path, std::strerror(errno));
  if (status.st_size < static_cast<off_t>(sizeof(Header))) fail(path, "too short to be packed weights");
  bytes_ = status.st_size;
  copy_ = Buffer(bytes_);
  data_ = copy_.data();
  std::atomic<bool> whole{true};
  pool.parallel_for((bytes_ + kBlock - 1) / kBlock, [&](int64_t begin, int64_t end, int) {
    if (!file.read_at(begin * kBlock, data_ + begin * kBlock, std::min(end * kBlock, bytes_) - begin * kBlock))
      whole = false;
  });
  if (!whole) fail(path, "it could not be read to its end");
  check(path, bytes, pool);
}

void WeightCopy::check(const std::string& path, const std::vector<int64_t>& bytes, ThreadPool& pool) {
  Header header;
  std::memcpy(&header, data_, sizeof header);
  const auto table_bytes = static_cast<int64_t>(bytes.size() * sizeof(Entry));
  if (header.magic != kMagic) fail(path, "not packed weights");
  if (header.num_pieces != static_cast<int64_t>(bytes.size()) || header.file_bytes != bytes_ ||
      static_cast<int64_t>(sizeof header) + table_bytes > bytes_)
    fail(path, "of another model, or cut short");
  if (checksum(data_ + sizeof header, table_bytes) != header.table_checksum) fail(path, "its table is damaged");
  std::vector<Entry> table(bytes.size());
  std::memcpy(table.data(), data_ + sizeof header, static_cast<size_t>(table_bytes));
  for (size_t i = 0; i < table.size(); ++i) {
    const Entry& entry = table[i];
    if (entry.bytes != bytes[i] || entry.offset % kPage || entry.offset < 0 || entry.offset > bytes_ - entry.bytes)
      fail(path, "of another model");
    if (piece_checksum(data_ + entry.offset, entry.bytes, pool) != entry.checksum)
      fail(path, "its contents are damaged");
    pieces_.push_back(data_ + entry.offset);
  }
}

}  // namespace quire
