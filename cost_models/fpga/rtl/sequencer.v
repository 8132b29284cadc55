// Steps of a block, one a cycle: for every window all groups of filters, for every group as many steps as `LENGTHS`
// says. It runs on from window to window without a bubble while `window_ready` holds at the first step of each.
module sequencer #(
    parameter GROUPS  = 1,
    parameter STEPS   = 1,  // of one window: the sum of the lengths
    parameter LONGEST = 1,
    parameter AW      = 1,  // bits of a step's address
    parameter LENGTHS = ""  // file of GROUPS hexadecimal numbers
) (
    input  wire          clk,
    input  wire          rst,
    input  wire          enable,
    input  wire          window_ready,
    output wire          issue,
    output reg  [AW-1:0] address,     // of the step within its window
    output wire          first,       // of its group
    output wire          last,
    output wire          window_done  // this step is the last of its window
);
    localparam LW = $clog2(LONGEST + 1);
    localparam GW = GROUPS > 1 ? $clog2(GROUPS) : 1;

    reg [LW-1:0] lengths [0:GROUPS-1];
    initial $readmemh(LENGTHS, lengths);

    reg [GW-1:0] group;
    reg [LW-1:0] step;

    assign issue       = enable && (address != 0 || window_ready);
    assign first       = step == 0;
    assign last        = step + 1 == lengths[group];
    assign window_done = address == STEPS - 1;

    always @(posedge clk) begin
        if (rst) begin
            address <= 0;
            group   <= 0;
            step    <= 0;
        end else if (issue) begin
            address <= window_done ? 0 : address + 1;
            step    <= last ? 0 : step + 1;
            if (last) group <= (group == GROUPS - 1) ? 0 : group + 1;
        end
    end
endmodule
