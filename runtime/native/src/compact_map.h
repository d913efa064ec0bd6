// A map from texts to numbers in three blocks of memory, for a vocabulary: std::unordered_map keeps each entry apart,
// with a std::string or two of 32 bytes for some seven letters.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgestill {

struct KeyParts {
    std::string_view first, second;
};

// How a key is kept as text; a pair has kHead bytes before it that tell where its second part begins.
template <class Key>
struct KeyText {
    static constexpr bool kKnown = false;
};

template <>
struct KeyText<std::string> {
    static constexpr bool kKnown = true;
    static KeyParts parts(const std::string &key) { return {key, {}}; }
    static KeyParts parts(std::string_view kept) { return {kept, {}}; }
    static void append(std::string &to, const KeyParts &key) { to.append(key.first); }
    static std::string key(const KeyParts &parts) { return std::string(parts.first); }
};

template <>
struct KeyText<std::pair<std::string, std::string>> {
    static constexpr bool kKnown = true;
    static constexpr size_t kHead = sizeof(uint32_t);
    static KeyParts parts(const std::pair<std::string, std::string> &key) { return {key.first, key.second}; }
    static KeyParts parts(std::string_view kept) {
        uint32_t first = 0;
        kept.copy(reinterpret_cast<char *>(&first), kHead);
        return {kept.substr(kHead, first), kept.substr(kHead + first)};
    }
    static void append(std::string &to, const KeyParts &key) {
        const auto first = static_cast<uint32_t>(key.first.size());
        to.append(reinterpret_cast<const char *>(&first), kHead).append(key.first).append(key.second);
    }
    static std::pair<std::string, std::string> key(const KeyParts &parts) {
        return {std::string(parts.first), std::string(parts.second)};
    }
};

// What of std::unordered_map a vocabulary uses, as it does it there, but that it is read in the order of insertion.
// Nothing is erased. Throws std::length_error above 16 million entries or 4 GiB of text.
template <class Key, class Value>
class CompactMap {
    using Text = KeyText<Key>;

    struct Entry {
        uint32_t begin;
        Value second;
    };

public:
    struct Item {
        Key first;
        Value second;
    };

    class Iterator {
    public:
        Iterator(const CompactMap &map, size_t at) : map_(&map), at_(at) {}
        const Entry *operator->() const { return &map_->entries_[at_]; }  // the value alone: no key is made for it
        Item operator*() const { return {Text::key(map_->parts(at_)), map_->entries_[at_].second}; }
        Iterator &operator++() {
            ++at_;
            return *this;
        }
        bool operator==(const Iterator &other) const { return at_ == other.at_; }
        bool operator!=(const Iterator &other) const { return at_ != other.at_; }

    private:
        const CompactMap *map_;
        size_t at_;
    };

    size_t size() const { return entries_.size(); }
    Iterator begin() const { return {*this, 0}; }
    Iterator end() const { return {*this, size()}; }
    Iterator find(const Key &key) const { return {*this, index(Text::parts(key))}; }
    size_t count(const Key &key) const { return index(Text::parts(key)) != size() ? 1 : 0; }

    const Value &at(const Key &key) const {
        const size_t found = index(Text::parts(key));
        if (found == size()) throw std::out_of_range("no such text in a vocabulary");
        return entries_[found].second;
    }

    // Holds until the next insertion.
    Value &operator[](const Key &key) {
        const KeyParts parts = Text::parts(key);
        const size_t found = index(parts);
        if (found == size()) insert(parts, Value());
        return entries_[found].second;
    }

    void emplace(const Key &key, Value value) {
        const KeyParts parts = Text::parts(key);
        if (index(parts) == size()) insert(parts, value);
    }

private:
    // A slot has an entry's number and one (0: empty) under eight bits of its hash, so that another is seldom looked at.
    static constexpr uint32_t kNumber = (1u << 24) - 1;

    static uint64_t hash(const KeyParts &key) {
        const std::hash<std::string_view> each;
        uint64_t mixed = each(key.first) * 0x9e3779b97f4a7c15ull + each(key.second);
        mixed = (mixed ^ mixed >> 32) * 0xd6e8feb86659fd93ull;
        return mixed ^ mixed >> 32;
    }

    KeyParts parts(size_t at) const {
        const size_t begin = entries_[at].begin;
        const size_t end = at + 1 < size() ? entries_[at + 1].begin : text_.size();
        return Text::parts(std::string_view(text_).substr(begin, end - begin));
    }

    // The entry's number; size() for none.
    size_t index(const KeyParts &key) const {
        if (slots_.empty()) return size();
        const uint64_t hashed = hash(key);
        const uint32_t tag = static_cast<uint32_t>(hashed >> 32) & ~kNumber;
        for (size_t slot = hashed & (slots_.size() - 1); slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
            if ((slots_[slot] & ~kNumber) != tag) continue;
            const size_t at = (slots_[slot] & kNumber) - 1;
            const KeyParts kept = parts(at);
            if (kept.first == key.first && kept.second == key.second) return at;
        }
        return size();
    }

    void insert(const KeyParts &key, Value value) {
        const size_t begin = text_.size();
        Text::append(text_, key);
        if (text_.size() > UINT32_MAX || size() >= kNumber) throw std::length_error("a vocabulary is too large");
        entries_.push_back({static_cast<uint32_t>(begin), value});
        if (4 * size() > 3 * slots_.size()) {
            slots_.assign(slots_.empty() ? 16 : 2 * slots_.size(), 0);
            for (size_t at = 0; at < size(); ++at) take_slot(at);
        } else {
            take_slot(size() - 1);
        }
    }

    void take_slot(size_t at) {
        const uint64_t hashed = hash(parts(at));
        size_t slot = hashed & (slots_.size() - 1);
        while (slots_[slot] != 0) slot = (slot + 1) & (slots_.size() - 1);
        slots_[slot] = (static_cast<uint32_t>(hashed >> 32) & ~kNumber) | static_cast<uint32_t>(at + 1);
    }

    std::string text_;
    std::vector<Entry> entries_;
    std::vector<uint32_t> slots_;
};

}  // namespace edgestill
