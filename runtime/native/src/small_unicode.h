// Comes before llama.cpp's unicode.cpp in our own builds: its table of what each of 1.1 million code points is keeps one
// page for all that are alike.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "unicode.h"

namespace edgestill {

class FlagTable {
public:
    FlagTable(size_t size, unicode_cpt_flags all) : size_(size), numbers_((size + kPage - 1) / kPage, 0) {
        pages_.emplace_back();
        pages_[0].fill(all);
        alike_.push_back(0);
    }

    size_t size() const { return size_; }

    const unicode_cpt_flags &operator[](size_t at) const { return pages_[numbers_[at / kPage]][at % kPage]; }

    // To be changed at once: it holds until another page is looked at this way.
    unicode_cpt_flags &operator[](size_t at) {
        const size_t page = at / kPage;
        if (page != open_) {
            close();
            open(page);
        }
        return pages_[numbers_[page]][at % kPage];
    }

private:
    static constexpr size_t kPage = 256;
    static constexpr size_t kNone = SIZE_MAX;
    using Page = std::array<unicode_cpt_flags, kPage>;

    void open(size_t page) {
        open_ = page;
        for (const uint16_t shared : alike_) {
            if (numbers_[page] != shared) continue;
            const Page copy = pages_[shared];
            numbers_[page] = static_cast<uint16_t>(pages_.size());
            pages_.push_back(copy);
            return;
        }
    }

    // A page whose code points are all alike becomes the one that has been kept for these.
    void close() {
        if (open_ == kNone) return;
        const uint16_t number = numbers_[open_];
        const unicode_cpt_flags first = pages_[number][0];
        for (const unicode_cpt_flags &flags : pages_[number]) {
            if (flags.as_uint() != first.as_uint()) return;
        }
        for (const uint16_t shared : alike_) {
            if (pages_[shared][0].as_uint() != first.as_uint()) continue;
            numbers_[open_] = shared;
            if (number + size_t{1} == pages_.size()) pages_.pop_back();  // the usual: it was opened last
            return;
        }
        alike_.push_back(number);
    }

    size_t size_;
    size_t open_ = kNone;
    std::vector<uint16_t> numbers_;  // each page's place in pages_
    std::vector<Page> pages_;
    std::vector<uint16_t> alike_;  // of pages_, those that several may share
};

}  // namespace edgestill

// A specialisation for a type of llama.cpp's, used in that file alone.
template <>
class std::vector<unicode_cpt_flags> : public edgestill::FlagTable {
    using FlagTable::FlagTable;
};
