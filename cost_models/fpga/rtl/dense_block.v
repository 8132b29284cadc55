// Dense block: P filters x M channels x V pixels a step, every weight in its place: no index memory, a counter says
// which tap and channels are read, and one read of M neighbouring channels (M divides C) serves all P filters.
module dense_block #(
    parameter C       = 1,
    parameter TAPS    = 1,  // K * K
    parameter P       = 1,
    parameter M       = 1,
    parameter V       = 1,
    parameter BW      = 8,
    parameter BA      = 8,
    parameter ACC     = 16,
    parameter PACKED  = 0,
    parameter GROUPS  = 1,
    parameter STEPS   = 1,
    parameter LONGEST = 1,
    parameter TB      = 1,
    parameter CB      = 1,
    parameter WEIGHTS = "",
    parameter LENGTHS = ""
) (
    input  wire              clk,
    input  wire              rst,
    input  wire              window_ready,
    input  wire              hold,
    output wire              enable,
    output wire              issue,
    output wire              window_done,
    output wire              read_valid,
    output wire [TB-1:0]     read_tap,
    output wire [CB-1:0]     read_channel,  // the first of M
    input  wire [M*V*BA-1:0] activations,   // v * M + m
    output wire              out_valid,
    input  wire              out_ready,
    output wire [P*V*ACC-1:0] sums
);
    localparam AW = STEPS > 1 ? $clog2(STEPS) : 1;

    reg [P*M*BW-1:0] stored [0:STEPS-1];
    initial $readmemh(WEIGHTS, stored);

    wire [AW-1:0] address;
    wire first, last, done;
    reg  [P*M*BW-1:0] weights_1, weights_2;
    reg  [TB-1:0] tap;
    reg  [CB-1:0] channel;
    reg  valid_1, first_1, last_1, valid_2, first_2, last_2;

    assign enable       = !hold && (!out_valid || out_ready);
    assign window_done  = issue && done;
    assign read_valid   = valid_1;
    assign read_tap     = tap;
    assign read_channel = channel;

    sequencer #(.GROUPS(GROUPS), .STEPS(STEPS), .LONGEST(LONGEST), .AW(AW), .LENGTHS(LENGTHS)) steps (
        .clk(clk), .rst(rst), .enable(enable), .window_ready(window_ready), .issue(issue), .address(address),
        .first(first), .last(last), .window_done(done)
    );

    always @(posedge clk) begin
        if (enable) begin
            weights_1 <= stored[address];
            first_1   <= first;
            last_1    <= last;
            valid_1   <= issue;
            weights_2 <= weights_1;
            first_2   <= first_1;
            last_2    <= last_1;
            valid_2   <= valid_1;
            if (issue) begin
                if (first) begin
                    tap     <= 0;
                    channel <= 0;
                end else if (channel == C - M) begin
                    tap     <= tap + 1;
                    channel <= 0;
                end else channel <= channel + M;
            end
        end
        if (rst) begin
            valid_1 <= 0;
            valid_2 <= 0;
        end
    end

    wire [P*M*V*BA-1:0] shared;
    genvar p, m, v;
    generate
        for (p = 0; p < P; p = p + 1) begin : filter
            for (m = 0; m < M; m = m + 1) begin : channel_of
                for (v = 0; v < V; v = v + 1) begin : pixel
                    assign shared[((p*M+m)*V+v)*BA +: BA] = activations[(v*M+m)*BA +: BA];
                end
            end
        end
    endgenerate

    mac_array #(.P(P), .M(M), .V(V), .BW(BW), .BA(BA), .ACC(ACC), .PACKED(PACKED)) lanes (
        .clk(clk), .rst(rst), .enable(enable), .valid(valid_2), .first(first_2), .last(last_2), .weights(weights_2),
        .activations(shared), .out_valid(out_valid), .out_ready(out_ready), .sums(sums)
    );
endmodule
