// Zero-weight-skipping block: P filters x M nonzeros x V pixels a step, only over the stored nonzeros. A step goes
// through four registers: {index, weight} of every lane, activations (in the line buffer), products, sums; the sums of
// the last step of a group are offered in the cycle after the fourth. All lanes step together, so their weights and
// indices lie in one memory, one word a step; short filters are padded with weight 0.
module zero_skip_block #(
    parameter C       = 1,
    parameter TAPS    = 1,  // K * K
    parameter P       = 1,
    parameter M       = 1,
    parameter V       = 1,
    parameter BW      = 8,
    parameter BA      = 8,
    parameter BI      = 1,  // bits of an index: tap * C + channel
    parameter ACC     = 16,
    parameter PACKED  = 0,
    parameter GROUPS  = 1,
    parameter STEPS   = 1,
    parameter LONGEST = 1,
    parameter TB      = 1,  // bits of a tap
    parameter CB      = 1,  // bits of a channel
    parameter WEIGHTS = "",
    parameter LENGTHS = ""
) (
    input  wire                clk,
    input  wire                rst,
    input  wire                window_ready,
    input  wire                hold,         // the line buffer needs its ports for a write
    output wire                enable,       // the pipeline moves
    output wire                issue,
    output wire                window_done,
    output wire                read_valid,
    output wire [P*M*TB-1:0]   read_tap,
    output wire [P*M*CB-1:0]   read_channel,
    input  wire [P*M*V*BA-1:0] activations,  // of the read, one cycle later
    output wire                out_valid,
    input  wire                out_ready,
    output wire [P*V*ACC-1:0]  sums
);
    localparam AW    = STEPS > 1 ? $clog2(STEPS) : 1;
    localparam LANES = P * M;

    reg [LANES*(BI+BW)-1:0] stored [0:STEPS-1];
    initial $readmemh(WEIGHTS, stored);

    wire [AW-1:0] address;
    wire first, last, done;
    reg  [LANES*(BI+BW)-1:0] word;
    reg  [LANES*BW-1:0] weights_2;
    reg  valid_1, first_1, last_1, valid_2, first_2, last_2;

    assign enable      = !hold && (!out_valid || out_ready);
    assign window_done = issue && done;
    assign read_valid  = valid_1;

    sequencer #(.GROUPS(GROUPS), .STEPS(STEPS), .LONGEST(LONGEST), .AW(AW), .LENGTHS(LENGTHS)) steps (
        .clk(clk), .rst(rst), .enable(enable), .window_ready(window_ready), .issue(issue), .address(address),
        .first(first), .last(last), .window_done(done)
    );

    wire [LANES*BW-1:0] weights_1;
    genvar lane;
    generate
        for (lane = 0; lane < LANES; lane = lane + 1) begin : decode
            wire [BI-1:0] index = word[lane*(BI+BW)+BW +: BI];
            reg  [TB-1:0] tap;
            reg  [BI-1:0] start;
            integer t;
            // Comparators instead of a division by C.
            always @* begin
                tap   = 0;
                start = 0;
                for (t = 1; t < TAPS; t = t + 1)
                    if (index >= t * C) begin
                        tap   = t;
                        start = t * C;
                    end
            end
            wire [BI-1:0] channel = index - start;
            assign read_tap[lane*TB +: TB]     = tap;
            assign read_channel[lane*CB +: CB] = channel;
            assign weights_1[lane*BW +: BW]    = word[lane*(BI+BW) +: BW];
        end
    endgenerate

    always @(posedge clk) begin
        if (enable) begin
            word      <= stored[address];
            first_1   <= first;
            last_1    <= last;
            valid_1   <= issue;
            weights_2 <= weights_1;
            first_2   <= first_1;
            last_2    <= last_1;
            valid_2   <= valid_1;
        end
        if (rst) begin
            valid_1 <= 0;
            valid_2 <= 0;
        end
    end

    mac_array #(.P(P), .M(M), .V(V), .BW(BW), .BA(BA), .ACC(ACC), .PACKED(PACKED)) lanes (
        .clk(clk), .rst(rst), .enable(enable), .valid(valid_2), .first(first_2), .last(last_2), .weights(weights_2),
        .activations(activations), .out_valid(out_valid), .out_ready(out_ready), .sums(sums)
    );
endmodule
