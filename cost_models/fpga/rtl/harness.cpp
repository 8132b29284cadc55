// Drives one chain: an image alone, then all images back to back, and writes what left and when.
//
// harness INPUT OUTPUT IN_BEATS OUT_BEATS IMAGES RESIDENT LIMIT STEPS_0 LEAVES_0 [STEPS_1 LEAVES_1 …]
// INPUT: the beats of all images, OUTPUT: the beats that left (the image alone first), each in whole 32-bit words.
// Standard output: "image FIRST LAST" a run image (cycles of its first beat offered and its last beat out), and
// "block B FIRST LAST" a block and run image (cycles of its first step issued and its last sums leaving).
// RESIDENT: blocks are held until the first image is stored. LIMIT: cycles in which nothing leaves that end the run.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <type_traits>
#include <vector>

#include "Vchain.h"
#include "verilated.h"

template <class Port>
constexpr size_t words() {
    return (sizeof(Port) + 3) / 4;
}

template <class Port>
void put(Port& port, const uint32_t* from) {
    if constexpr (std::is_integral_v<Port>) {
        uint64_t value = from[0];
        if constexpr (sizeof(Port) > 4) value |= uint64_t(from[1]) << 32;
        port = Port(value);
    } else {
        for (size_t i = 0; i < words<Port>(); ++i) port[i] = from[i];
    }
}

template <class Port>
void take(const Port& port, std::vector<uint32_t>& to) {
    if constexpr (std::is_integral_v<Port>) {
        to.push_back(uint32_t(port));
        if constexpr (sizeof(Port) > 4) to.push_back(uint32_t(uint64_t(port) >> 32));
    } else {
        for (size_t i = 0; i < words<Port>(); ++i) to.push_back(port[i]);
    }
}

struct Block {
    long steps, leaves;
    long issued = 0, left = 0;
};

int main(int argc, char** argv) {
    const char* input_path = argv[1];
    const char* output_path = argv[2];
    const long in_beats = atol(argv[3]), out_beats = atol(argv[4]), images = atol(argv[5]);
    const bool resident = atol(argv[6]) != 0;
    const long limit = atol(argv[7]);
    std::vector<Block> blocks;
    for (int i = 8; i + 1 < argc; i += 2) blocks.push_back({atol(argv[i]), atol(argv[i + 1])});

    Vchain top;
    constexpr size_t in_words = words<decltype(top.in_data)>();
    std::ifstream file(input_path, std::ios::binary);
    std::vector<uint32_t> beats(in_words * in_beats * images);
    if (!file.read(reinterpret_cast<char*>(beats.data()), std::streamsize(beats.size() * 4))) return 3;
    std::vector<uint32_t> out;

    long cycle = 0;
    auto clock = [&] {
        top.clk = 1;
        top.eval();
        top.clk = 0;
        top.eval();
        ++cycle;
    };
    top.clk = 0;
    top.rst = 1;
    top.in_valid = 0;
    top.out_ready = 1;
    top.go = 0;
    for (int i = 0; i < 3; ++i) clock();
    top.rst = 0;

    bool go = !resident;
    auto run = [&](long count) {
        long sent = 0, received = 0, quiet = 0, left = 0;
        std::vector<long> offered;
        for (Block& block : blocks) block.issued = block.left = 0;
        // Rows that no window needs, and steps whose sums no window needs, are waited for too.
        while (received < count * out_beats || sent < count * in_beats || left < long(blocks.size())) {
            top.in_valid = sent < count * in_beats;
            if (top.in_valid) {
                if (sent % in_beats == 0 && long(offered.size()) == sent / in_beats) offered.push_back(cycle);
                put(top.in_data, &beats[size_t(sent) * in_words]);
            }
            if (sent >= in_beats) go = true;
            top.go = go;
            top.eval();
            left = 0;
            for (size_t b = 0; b < blocks.size(); ++b) {
                Block& block = blocks[b];
                if (top.issue >> b & 1 && block.issued++ % block.steps == 0) printf("first %zu %ld\n", b, cycle);
                if (top.leave >> b & 1 && ++block.left % block.leaves == 0) printf("last %zu %ld\n", b, cycle);
                left += block.left == count * block.leaves;
            }
            sent += top.in_valid && top.in_ready;
            quiet = top.out_valid || top.leave ? 0 : quiet + 1;
            if (top.out_valid) {
                take(top.out_data, out);
                if (++received % out_beats == 0) printf("image %ld %ld\n", offered[size_t(received / out_beats - 1)], cycle);
            }
            if (quiet > limit) {
                fprintf(stderr, "nothing moved for %ld cycles, %ld of %ld beats out\n", limit, received, count * out_beats);
                exit(4);
            }
            clock();
        }
        top.in_valid = 0;
        for (int i = 0; i < 8; ++i) clock();
    };
    run(1);
    run(images);
    std::ofstream(output_path, std::ios::binary)
        .write(reinterpret_cast<const char*>(out.data()), std::streamsize(out.size() * 4));
    return 0;
}
