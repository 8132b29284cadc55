// Rows of one image after another, written in beats of the producer, read by the lanes of one block.
//
// Row i of the stream lies in row bank i mod ROWS; within a row, column x lies in column bank (x / S) mod V, so that the
// V pixels of a window, S columns apart, never collide. Every copy serves two read ports. Padding is not stored: it is
// an address outside the image, read as 0.
//
// A window is ready once its last pixel is written; row i may be written while i < (oldest row in use) + ROWS. A bank has
// two ports, and the two lanes of a copy use both: a bank that is written is not read. With ROWS >= K + S the row that is
// written is usually none of those in use; where it is, `hold` stops the block for that one cycle.
module line_buffer #(
    parameter C       = 1,
    parameter H       = 1,
    parameter W       = 1,
    parameter K       = 1,
    parameter S       = 1,
    parameter PAD     = 0,
    parameter HO      = 1,
    parameter WO      = 1,
    parameter V       = 1,  // output pixels of a window
    parameter PP      = 1,  // channels of a beat; a pixel takes ceil(C / PP) beats
    parameter VP      = 1,  // pixels of a beat, at most 2 in a column bank
    parameter BA      = 8,
    parameter PORTS   = 1,  // reads a cycle
    parameter READ    = 1,  // neighbouring channels of a read
    parameter WORD    = 1,  // channels of a word of a bank: the least common multiple of PP and READ
    parameter ROWS    = 2,
    parameter TB      = 1,
    parameter CB      = 1
) (
    input  wire                      clk,
    input  wire                      rst,
    input  wire                      go,
    input  wire                      wr_valid,
    output wire                      wr_ready,
    input  wire [VP*PP*BA-1:0]       wr_data,     // (channel, pixel): c * VP + v
    output wire                      window_ready,
    input  wire                      window_done, // the window's last step is issued
    input  wire                      enable,      // the block's pipeline moves
    output wire                      hold,
    input  wire                      read_valid,
    input  wire [PORTS*TB-1:0]       read_tap,
    input  wire [PORTS*CB-1:0]       read_channel,
    output wire [PORTS*V*READ*BA-1:0] activations // (port, pixel, channel), one cycle after the read
);
    localparam WINDOWS = (WO + V - 1) / V;
    localparam GROUPS  = (C + PP - 1) / PP;       // beats of a pixel
    localparam STRIDES = (W + VP - 1) / VP;       // beats of a row, for one group
    localparam G       = (C + WORD - 1) / WORD;   // words of a pixel
    localparam DEPTH   = (((W + S - 1) / S + V - 1) / V) * S * G;
    localparam AB      = DEPTH > 1 ? $clog2(DEPTH) : 1;
    localparam SLICES  = WORD / PP;
    localparam SB      = SLICES > 1 ? $clog2(SLICES) : 1;
    localparam RB      = ROWS > 1 ? $clog2(ROWS) : 1;
    localparam N       = 16;                      // bits of row and column counters, which wrap
    localparam COPIES  = (PORTS + 1) / 2;

    function [RB-1:0] slot_after(input [RB-1:0] slot, input integer rows);
        integer sum;
        begin
            sum = slot + rows;
            slot_after = sum % ROWS;
        end
    endfunction

    function signed [N-1:0] at_most(input signed [N-1:0] a, input signed [N-1:0] b);
        at_most = a < b ? a : b;
    endfunction

    // Writer.
    reg signed [N-1:0] wr_row;  // of the stream of all images
    reg [RB-1:0] wr_slot;
    reg [N-1:0] wr_group, wr_stride;
    wire signed [N-1:0] wr_columns = wr_stride * VP;  // complete columns of the row being written
    wire write = wr_valid && wr_ready;

    // Reader: the window that is issued, and the one whose activations are read (one register later).
    reg signed [N-1:0] base;        // stream row of the image's row 0
    reg [RB-1:0] base_slot;
    reg signed [N-1:0] top, top_1;  // input row of tap 0, counted in the image; negative in the padding
    reg [RB-1:0] slot, slot_1;      // row bank of `top`
    reg [N-1:0] row;
    reg [N-1:0] window, window_1;
    reg signed [N-1:0] oldest_1, newest_1;
    wire signed [N-1:0] oldest = base + (top < 0 ? 0 : top);
    wire signed [N-1:0] newest = base + at_most(top + K - 1, H - 1);
    wire signed [N-1:0] last_pixel  = at_most(window * V + V - 1, WO - 1);
    wire signed [N-1:0] last_column = at_most(last_pixel * S + K - 1 - PAD, W - 1);
    wire signed [N-1:0] lead   = wr_row - newest;
    wire signed [N-1:0] fill   = wr_row - oldest_1;
    wire signed [N-1:0] behind = wr_row - newest_1;
    wire signed [N-1:0] ahead  = wr_row - oldest_1;

    assign window_ready = go && (lead > 0 || (lead == 0 && wr_columns > last_column));
    assign wr_ready     = fill < ROWS;
    assign hold         = read_valid && write && behind <= 0 && ahead >= 0;

    always @(posedge clk) begin
        if (write) begin
            wr_group <= wr_group + 1;
            if (wr_group == GROUPS - 1) begin
                wr_group  <= 0;
                wr_stride <= wr_stride + 1;
                if (wr_stride == STRIDES - 1) begin
                    wr_stride <= 0;
                    wr_row    <= wr_row + 1;
                    wr_slot   <= slot_after(wr_slot, 1);
                end
            end
        end
        if (enable) begin
            top_1    <= top;
            slot_1   <= slot;
            window_1 <= window;
            oldest_1 <= oldest;
            newest_1 <= newest;
            if (window_done) begin
                window <= window + 1;
                if (window == WINDOWS - 1) begin
                    window <= 0;
                    row    <= row + 1;
                    top    <= top + S;
                    slot   <= slot_after(slot, S);
                    if (row == HO - 1) begin
                        row       <= 0;
                        top       <= -PAD;
                        base      <= base + H;
                        base_slot <= slot_after(base_slot, H);
                        slot      <= slot_after(base_slot, H + PAD * (ROWS - 1));
                    end
                end
            end
        end
        if (rst) begin
            wr_row    <= 0;
            wr_slot   <= 0;
            wr_group  <= 0;
            wr_stride <= 0;
            base      <= 0;
            base_slot <= 0;
            row       <= 0;
            top       <= -PAD;
            slot      <= (PAD * (ROWS - 1)) % ROWS;
            window    <= 0;
            oldest_1  <= 0;
            newest_1  <= 0;
        end
    end

    // Writes of this cycle to every column bank of row bank `wr_slot`, on port a and, for a second pixel, port b.
    reg [V-1:0] wr_a, wr_b;
    reg [V*AB-1:0] wr_address_a, wr_address_b;
    reg [V*PP*BA-1:0] wr_data_a, wr_data_b;
    reg [SB-1:0] wr_slice;
    reg [PP*BA-1:0] pixel;
    integer i, c, x, bank, place;
    always @* begin
        wr_a = 0;
        wr_b = 0;
        wr_address_a = 0;
        wr_address_b = 0;
        wr_data_a = 0;
        wr_data_b = 0;
        wr_slice = wr_group % SLICES;
        bank = 0;
        place = 0;
        x = 0;
        pixel = 0;
        for (i = 0; i < VP; i = i + 1) begin
            x = wr_columns + i;
            for (c = 0; c < PP; c = c + 1) pixel[c*BA +: BA] = wr_data[(c*VP+i)*BA +: BA];
            if (write && x < W) begin
                bank  = (x / S) % V;
                place = ((x / S) / V * S + x % S) * G + wr_group / SLICES;
                if (!wr_a[bank]) begin
                    wr_a[bank] = 1;
                    wr_address_a[bank*AB +: AB] = place;
                    wr_data_a[bank*PP*BA +: PP*BA] = pixel;
                end else begin
                    wr_b[bank] = 1;
                    wr_address_b[bank*AB +: AB] = place;
                    wr_data_b[bank*PP*BA +: PP*BA] = pixel;
                end
            end
        end
    end

    wire [2*COPIES*TB-1:0] taps = read_tap;
    wire [2*COPIES*CB-1:0] channels = read_channel;
    wire [2*COPIES*V*READ*BA-1:0] read;
    assign activations = read[PORTS*V*READ*BA-1:0];

    genvar copy;
    generate
        for (copy = 0; copy < COPIES; copy = copy + 1) begin : copies
            line_buffer_copy #(
                .H(H), .W(W), .K(K), .S(S), .PAD(PAD), .V(V), .BA(BA), .READ(READ), .WORD(WORD), .PP(PP), .ROWS(ROWS),
                .DEPTH(DEPTH), .AB(AB), .SB(SB), .RB(RB), .G(G), .TB(TB), .CB(CB), .N(N)
            ) banks (
                .clk(clk), .enable(enable), .read_a(read_valid), .read_b(read_valid && 2 * copy + 1 < PORTS),
                .taps(taps[2*copy*TB +: 2*TB]), .channels(channels[2*copy*CB +: 2*CB]), .top(top_1), .slot(slot_1),
                .window(window_1), .wr_slot(wr_slot), .wr_slice(wr_slice), .wr_a(wr_a), .wr_b(wr_b),
                .wr_address_a(wr_address_a), .wr_address_b(wr_address_b), .wr_data_a(wr_data_a), .wr_data_b(wr_data_b),
                .read(read[2*copy*V*READ*BA +: 2*V*READ*BA])
            );
        end
    endgenerate
endmodule

// One copy of the rows: ROWS x V banks of two ports, for two reads of V pixels each a cycle.
module line_buffer_copy #(
    parameter H     = 1,
    parameter W     = 1,
    parameter K     = 1,
    parameter S     = 1,
    parameter PAD   = 0,
    parameter V     = 1,
    parameter BA    = 8,
    parameter READ  = 1,
    parameter WORD  = 1,
    parameter PP    = 1,
    parameter ROWS  = 2,
    parameter DEPTH = 1,
    parameter AB    = 1,
    parameter SB    = 1,
    parameter RB    = 1,
    parameter G     = 1,
    parameter TB    = 1,
    parameter CB    = 1,
    parameter N     = 16
) (
    input  wire                  clk,
    input  wire                  enable,
    input  wire                  read_a,
    input  wire                  read_b,
    input  wire [2*TB-1:0]       taps,
    input  wire [2*CB-1:0]       channels,
    input  wire signed [N-1:0]   top,
    input  wire [RB-1:0]         slot,
    input  wire [N-1:0]          window,
    input  wire [RB-1:0]         wr_slot,
    input  wire [SB-1:0]         wr_slice,
    input  wire [V-1:0]          wr_a,
    input  wire [V-1:0]          wr_b,
    input  wire [V*AB-1:0]       wr_address_a,
    input  wire [V*AB-1:0]       wr_address_b,
    input  wire [V*PP*BA-1:0]    wr_data_a,
    input  wire [V*PP*BA-1:0]    wr_data_b,
    output reg  [2*V*READ*BA-1:0] read
);
    /* verilator no_inline_module */
    localparam OFF = PAD + V;      // keeps what is divided positive
    localparam WB  = WORD * BA;

    wire [1:0] valid = {read_b, read_a};
    reg  [2*RB-1:0] bank_row, bank_row_2;
    reg  [1:0] in_row;
    reg  [2*V-1:0] in_map, in_map_2;            // the image
    reg  [2*V*AB-1:0] address;                  // by column bank
    reg  [2*V*32-1:0] column_bank, column_bank_2;  // by pixel
    reg  [2*CB-1:0] channels_2;
    integer i, v, tap, ky, kx, group, x, y, bank, channel;

    always @* begin
        address = 0;
        for (i = 0; i < 2; i = i + 1) begin
            tap     = taps[i*TB +: TB];
            channel = channels[i*CB +: CB];
            ky      = tap / K;
            kx      = tap % K;
            y       = top + ky;
            in_row[i] = y >= 0 && y < H;
            bank_row[i*RB +: RB] = (slot + ky) % ROWS;
            for (v = 0; v < V; v = v + 1) begin
                x     = (window * V + v) * S + kx - PAD;
                in_map[i*V+v] = in_row[i] && x >= 0 && x < W;
                group = (x + OFF * V * S) / S;  // of S neighbouring columns, OFF * V too large
                bank  = group % V;
                column_bank[(i*V+v)*32 +: 32] = bank;
                if (in_map[i*V+v])
                    address[(i*V+bank)*AB +: AB] = ((group / V - OFF) * S + (x + OFF * V * S) % S) * G + channel / WORD;
            end
        end
    end

    wire [2*ROWS*V*WB-1:0] stored;  // (port, row bank, column bank)
    genvar r, c;
    generate
        for (r = 0; r < ROWS; r = r + 1) begin : row
            for (c = 0; c < V; c = c + 1) begin : column
                wire here  = wr_slot == r;
                wire put_a = here && wr_a[c];
                wire put_b = here && wr_b[c];
                wire get_a = enable && valid[0] && in_row[0] && bank_row[0 +: RB] == r;
                wire get_b = enable && valid[1] && in_row[1] && bank_row[RB +: RB] == r;
                two_port_bank #(.WORD_BITS(WB), .SLICE_BITS(PP * BA), .DEPTH(DEPTH), .AB(AB), .SB(SB)) memory (
                    .clk(clk), .put_a(put_a), .put_b(put_b), .get_a(get_a), .get_b(get_b), .slice(wr_slice),
                    .address_a(put_a ? wr_address_a[c*AB +: AB] : address[c*AB +: AB]),
                    .address_b(put_b ? wr_address_b[c*AB +: AB] : address[(V+c)*AB +: AB]),
                    .data_a(wr_data_a[c*PP*BA +: PP*BA]), .data_b(wr_data_b[c*PP*BA +: PP*BA]),
                    .word_a(stored[(r*V+c)*WB +: WB]), .word_b(stored[(ROWS*V+r*V+c)*WB +: WB])
                );
            end
        end
    endgenerate

    always @(posedge clk)
        if (enable) begin
            bank_row_2    <= bank_row;
            in_map_2      <= in_map;
            column_bank_2 <= column_bank;
            channels_2    <= channels;
        end

    integer j, u, from;
    always @*
        for (j = 0; j < 2; j = j + 1)
            for (u = 0; u < V; u = u + 1) begin
                from = ((j * ROWS + bank_row_2[j*RB +: RB]) * V + column_bank_2[(j*V+u)*32 +: 32]) * WB
                     + channels_2[j*CB +: CB] % WORD * BA;
                read[(j*V+u)*READ*BA +: READ*BA] = in_map_2[j*V+u] ? stored[from +: READ*BA] : 0;
            end
endmodule

// Block memory with two ports, each a write or a read in a cycle. A write changes one slice of a word.
module two_port_bank #(
    parameter WORD_BITS  = 8,
    parameter SLICE_BITS = 8,
    parameter DEPTH      = 1,
    parameter AB         = 1,
    parameter SB         = 1
) (
    input  wire                  clk,
    input  wire                  put_a,
    input  wire                  put_b,
    input  wire                  get_a,
    input  wire                  get_b,
    input  wire [SB-1:0]         slice,
    input  wire [AB-1:0]         address_a,
    input  wire [AB-1:0]         address_b,
    input  wire [SLICE_BITS-1:0] data_a,
    input  wire [SLICE_BITS-1:0] data_b,
    output reg  [WORD_BITS-1:0]  word_a,
    output reg  [WORD_BITS-1:0]  word_b
);
    /* verilator no_inline_module */
    reg [WORD_BITS-1:0] words [0:DEPTH-1];

    always @(posedge clk) begin
        if (put_a) words[address_a][slice*SLICE_BITS +: SLICE_BITS] <= data_a;
        if (put_b) words[address_b][slice*SLICE_BITS +: SLICE_BITS] <= data_b;
        if (get_a) word_a <= words[address_a];
        if (get_b) word_b <= words[address_b];
`ifndef SYNTHESIS
        if ((put_a || put_b) && (get_a || get_b)) $fatal(1, "a bank is written and read in the same cycle");
`endif
    end
endmodule
